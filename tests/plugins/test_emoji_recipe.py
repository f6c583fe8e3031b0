"""The embedded model's whole recipe, a few steps of each command, on drawn stand-ins for the
artwork.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow

EMOJI = Path(__file__).parents[2] / "plugins" / "emoji"
Command = Callable[..., None]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run one command of the recipe as `python -m recipe.NAME` would, in this process."""
    monkeypatch.syspath_prepend(str(EMOJI))

    def run(name: str, *words: object) -> None:
        import importlib

        module = importlib.import_module(f"recipe.{name}")
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        module.main()

    return run


def draw_sprites(out: Path) -> None:
    """Three animals as plain shapes with an eye, `S x 96 x 96 x 4`, as `recipe.artwork` would save
    them.
    """
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    shapes = {
        2: x**2 + y**2 < 0.9,
        15: (abs(x) < 0.95) & (abs(y) < 0.5),
        36: abs(x) + abs(y) < 0.95,
    }
    rgba = np.zeros((3, 96, 96, 4), np.uint8)
    for sprite, inside in zip(rgba, shapes.values(), strict=True):
        sprite[inside] = (150, 100, 60, 255)
        sprite[x**2 + (y + 0.2) ** 2 < 0.02] = (10, 10, 10, 255)
    np.savez(out, rgba=rgba, animal=np.array(list(shapes)))


def test_every_command_of_the_recipe_runs(command: Command, tmp_path: Path) -> None:
    work, model = tmp_path / "work", tmp_path / "model"
    work.mkdir()
    draw_sprites(work / "sprites.npz")
    for name, seed in (("train", 1), ("scorer", 2), ("judge", 3), ("heldout", 4)):
        command(
            "render",
            "--sprites",
            work / "sprites.npz",
            "--images",
            240,
            "--seed",
            seed,
            "--out",
            work / f"{name}.npz",
        )
    command("codec", "--pool", work / "train.npz", "--out", work / "vae")
    command("tokenizer", "--out", work / "tokenizer")
    codec, words = ("--codec", work / "vae"), ("--tokenizer", work / "tokenizer")
    heldout = ("--heldout", work / "heldout.npz")
    train = (
        "train_diffusion",
        "--pool",
        work / "train.npz",
        *codec,
        *words,
        "--batch",
        4,
        "--out",
        work / "diffusion",
    )
    command(*train, "--steps", 2)
    command(
        "train_scorer",
        "--pool",
        work / "scorer.npz",
        *heldout,
        *codec,
        *words,
        "--steps",
        2,
        "--out",
        work / "scorer",
    )
    command(
        "train_judge",
        "--pool",
        work / "judge.npz",
        *heldout,
        *codec,
        "--steps",
        2,
        "--out",
        work / "judge",
    )
    command("export", "--work", work, "--out", model)
    command(
        "measure",
        "--model",
        model,
        *heldout,
        "--seeds",
        1,
        "--steps",
        2,
        "--out",
        tmp_path / "card",
    )
    figures = json.loads((tmp_path / "card" / "figures.json").read_text())
    assert figures["judge_on_samples"]["pictures"] == 45
    assert (tmp_path / "card" / "samples.png").stat().st_size > 1000
    saved = "".join(path.read_text() for path in model.rglob("*.json"))
    assert str(tmp_path) not in saved


def test_a_resumed_training_equals_an_unbroken_one(command: Command, tmp_path: Path) -> None:
    draw_sprites(tmp_path / "sprites.npz")
    command(
        "render",
        "--sprites",
        tmp_path / "sprites.npz",
        "--images",
        60,
        "--out",
        tmp_path / "train.npz",
    )
    command("codec", "--pool", tmp_path / "train.npz", "--out", tmp_path / "vae")
    command("tokenizer", "--out", tmp_path / "tokenizer")

    def weights(name: str, *stops: int) -> dict[str, torch.Tensor]:
        from recipe import checkpoint, train_diffusion

        for stop in stops:
            train_diffusion.train(
                tmp_path / "train.npz",
                tmp_path / "vae",
                tmp_path / "tokenizer",
                tmp_path / name,
                steps=4,
                batch=2,
                stop=stop,
            )
        state = checkpoint.read(tmp_path / name)
        assert state is not None
        averaged: dict[str, torch.Tensor] = state["ema"]
        return averaged

    whole, broken = weights("whole", 4), weights("broken", 2, 4)
    for name, value in whole.items():
        torch.testing.assert_close(broken[name], value, rtol=0, atol=0, msg=name)


def test_svg_becomes_a_centred_sprite(command: Command) -> None:
    pytest.importorskip("resvg_py", reason="rasterising artwork needs resvg-py")
    from recipe.artwork import rasterise, sprite_table, svg
    from recipe.words import ANIMALS

    icons = {
        "width": 10,
        "height": 10,
        "icons": {"box": {"body": '<path fill="red" d="M1 4h8v2h-8z"/>'}},
    }
    rgba = rasterise(svg(icons, "box"), size=32)
    assert rgba.shape == (32, 32, 4)
    ink = rgba[..., 3] > 128
    assert ink[:, 16].sum() == pytest.approx(8, abs=2)
    assert ink[16].all()
    assert tuple(sprite_table()) == ANIMALS


def test_captions_read_as_english(command: Command) -> None:
    from recipe.words import ANIMALS, COLOUR_NAMES, caption

    ant, fox = ANIMALS.index("ant"), ANIMALS.index("fox")
    red, orange = COLOUR_NAMES.index("red"), COLOUR_NAMES.index("orange")
    assert caption(ant) == "an ant"
    assert caption(fox, red, orange) == "a red fox on an orange background"
