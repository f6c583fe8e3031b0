"""The embedded model's recipe, a few steps of each command, on stand-ins for the artwork."""

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
    """Three animals as plain shapes with an eye, as `recipe.artwork` would save them."""
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


def prepare(command: Command, work: Path, images: int = 240) -> None:
    """Pools, codec and tokenizer, as the first commands make them."""
    work.mkdir(exist_ok=True)
    draw_sprites(work / "sprites.npz")
    for name, seed in (("train", 1), ("scorer", 2), ("judge", 3), ("heldout", 4)):
        options = ("--images", images, "--seed", seed, "--out", work / f"{name}.npz")
        command("render", "--sprites", work / "sprites.npz", *options)
    command("codec", "--pool", work / "train.npz", "--out", work / "vae")
    command("tokenizer", "--out", work / "tokenizer")


def test_every_command_of_the_recipe_runs(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After the path to the recipe, which the command knows.
    monkeypatch.setattr("recipe.measure.STEEP_AT", 2)
    work, model = tmp_path / "work", tmp_path / "model"
    prepare(command, work)
    pool, heldout = ("--pool", work / "train.npz"), ("--heldout", work / "heldout.npz")
    codec, words = ("--codec", work / "vae"), ("--tokenizer", work / "tokenizer")
    few = ("--steps", 2)

    train = ("train_diffusion", *pool, *codec, *words, "--batch", 4)
    command(*train, *few, "--out", work / "diffusion")
    again = ("--diffusion", work / "diffusion", "--images", 8, "--batch", 4)
    command("resample", *pool, *codec, *words, *again, "--out", work / "resampled")
    decoder = ("--resampled", work / "resampled", "--batch", 2, "--again", 2)
    command("train_decoder", *pool, *heldout, *codec, *decoder, *few, "--out", work / "decoder")
    scorer = ("--pool", work / "scorer.npz", *heldout, *codec, *words, *few)
    command("train_scorer", *scorer, "--out", work / "scorer")
    judge = ("--pool", work / "judge.npz", *heldout, *codec, *few)
    command("train_judge", *judge, "--out", work / "judge")
    command("export", "--work", work, "--out", model)
    card = tmp_path / "card"
    command("measure", "--model", model, *heldout, "--seeds", 1, *few, "--out", card)

    figures = json.loads((card / "figures.json").read_text())
    assert figures["judge_on_samples"]["pictures"] == 45
    assert figures["decoder"]["grain"]["renders"] < figures["decoder"]["grain"]["old"]
    for sheet in ("samples.png", "old-and-new.png"):
        assert (card / sheet).stat().st_size > 1000
    saved = "".join(path.read_text() for path in model.rglob("*.json"))
    assert str(tmp_path) not in saved

    # What was exported can be trained on, and its latents stay what they are.
    command(*train, *few, "--start", model / "pipeline", "--out", work / "longer")
    kept = ("--keep", model / "pipeline" / "vae")
    command("codec", *pool, *kept, "--out", work / "vae-again")
    assert_same_latents(work / "vae", work / "vae-again")


def assert_same_latents(first: Path, second: Path) -> None:
    """Two codecs' encoders, one of them rounded to half precision, agree."""
    from dno_emoji.codec import EmojiCodec

    one, other = (EmojiCodec.from_pretrained(folder) for folder in (first, second))
    for name in ("mean", "analysis"):
        ours, theirs = getattr(one, name), getattr(other, name)
        torch.testing.assert_close(ours.half(), theirs.half(), rtol=1e-3, atol=1e-6, msg=name)


def test_pictures_have_the_size_that_was_asked_for(command: Command, tmp_path: Path) -> None:
    draw_sprites(tmp_path / "sprites.npz")
    options = ("--sprites", tmp_path / "sprites.npz", "--images", 6, "--size", 48)
    command("render", *options, "--out", tmp_path / "pool.npz")
    pixels = np.load(tmp_path / "pool.npz")["pixels"]
    assert pixels.shape == (6, 48, 48, 3)


def test_latents_are_those_of_the_halved_picture(command: Command, tmp_path: Path) -> None:
    prepare(command, tmp_path, images=60)
    from dno_emoji.codec import EmojiCodec
    from recipe.codec import blocks, components, halved, to_tensor

    codec = EmojiCodec.from_pretrained(tmp_path / "vae")
    images = to_tensor(np.load(tmp_path / "train.npz")["pixels"])
    mean, analysis = components(halved(images), count=24, whitening=0.5, patch=4)
    expected = (blocks(halved(images), 4) - mean) @ analysis.T
    found = blocks(codec.encode(images).latent_dist.mode(), 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_the_linear_decoder_is_the_best_linear_one(command: Command, tmp_path: Path) -> None:
    prepare(command, tmp_path, images=60)
    from dno_emoji.codec import EmojiCodec
    from recipe import looks
    from recipe.codec import to_tensor

    codec = EmojiCodec.from_pretrained(tmp_path / "vae").double().requires_grad_(False)
    images = to_tensor(np.load(tmp_path / "train.npz")["pixels"]).double()
    latents = codec.encode(images).latent_dist.mode()

    def error() -> float:
        return float((codec.decode_linearly(latents) - images).square().mean())

    # The network corrects nothing yet: decoding is linear, and no other matrix decodes better.
    torch.testing.assert_close(codec.decode(latents).sample, codec.decode_linearly(latents))
    steepest = torch.linalg.matrix_norm(codec.synthesis, ord=2) / 2
    found = looks.steepness(codec, latents[:1])
    torch.testing.assert_close(found, steepest[None], rtol=1e-3, atol=0)
    least = error()
    for parameter in (codec.synthesis, codec.bias):
        nudge = 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        for sign in (1, -2):
            parameter.add_(sign * nudge)
            assert error() > least
        parameter.add_(nudge)


def trained_diffusion(work: Path, out: Path, stop: int) -> dict[str, torch.Tensor]:
    """The averaged weights after `stop` of four steps, with every choice of a training in use."""
    from recipe import checkpoint, train_diffusion

    plan = train_diffusion.Plan(
        steps=4, batch=2, uniform=0.5, often=("bear",), times=2.0, decay=1.0
    )
    inputs = (work / "train.npz", work / "vae", work / "tokenizer")
    train_diffusion.train(*inputs, out, plan, stop=stop)
    averaged: dict[str, torch.Tensor] = checkpoint.required(out)["ema"]
    return averaged


def trained_decoder(work: Path, out: Path, stop: int) -> dict[str, torch.Tensor]:
    """The network's weights after `stop` of four steps, drawn again by an untrained model."""
    from recipe import checkpoint, resample, train_decoder

    if not (work / "resampled").exists():
        trained_diffusion(work, work / "diffusion", 1)
        folders = (work / "vae", work / "tokenizer", work / "diffusion", work / "resampled")
        resample.resample(work / "train.npz", *folders, images=4, batch=2)
    inputs = (work / "train.npz", work / "vae", work / "resampled")
    train_decoder.train(*inputs, out, steps=4, batch=2, again=2, stop=stop)
    weights: dict[str, torch.Tensor] = checkpoint.required(out)["model"]
    return weights


@pytest.mark.parametrize("train", [trained_diffusion, trained_decoder])
def test_a_resumed_training_equals_an_unbroken_one(
    command: Command, tmp_path: Path, train: Callable[..., dict[str, torch.Tensor]]
) -> None:
    prepare(command, tmp_path, images=60)
    half = {name: value.clone() for name, value in train(tmp_path, tmp_path / "broken", 2).items()}
    broken = train(tmp_path, tmp_path / "broken", 4)
    whole = train(tmp_path, tmp_path / "whole", 4)

    for name, value in whole.items():
        torch.testing.assert_close(broken[name], value, rtol=0, atol=0, msg=name)
    assert any(not torch.equal(half[name], value) for name, value in whole.items())


def test_resampling_goes_on_where_it_was(command: Command, tmp_path: Path) -> None:
    prepare(command, tmp_path, images=60)
    trained_diffusion(tmp_path, tmp_path / "diffusion", 1)
    from recipe import resample

    def drawn(name: str, *numbers: int) -> tuple[torch.Tensor, torch.Tensor]:
        folders = (tmp_path / "vae", tmp_path / "tokenizer", tmp_path / "diffusion")
        for images in numbers:
            resample.resample(
                tmp_path / "train.npz", *folders, tmp_path / name, images=images, batch=2
            )
        return resample.read(tmp_path / name)

    whole, broken = drawn("whole", 6), drawn("broken", 2, 6)
    assert whole[0].shape == (6, 24, 8, 8)
    for ours, theirs in zip(whole, broken, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=0, atol=0)


def test_a_true_picture_takes_the_colours_that_were_seen(command: Command) -> None:
    from recipe.recolour import recoloured

    # A light square on dark, with a small eye; drawn again greener, darker and with grain.
    true = torch.full((1, 3, 32, 32), -0.6)
    true[:, :, 8:24, 8:24] = 0.7
    true[:, :, 12:14, 12:14] = -1.0
    shift = torch.tensor([-0.2, 0.25, -0.1]).view(1, 3, 1, 1)
    draw = torch.Generator().manual_seed(0)
    seen = true + shift + 0.2 * torch.randn(true.shape, generator=draw)

    found = recoloured(true, seen)
    wanted = true + shift
    large = torch.ones(32, 32, dtype=torch.bool)
    large[12:14, 12:14] = False
    assert (found - wanted)[..., large].abs().max() < 0.06
    assert (found - true)[..., large].abs().mean() > 0.15
    # Edges are as sharp as in the true picture, and what was flat is flat.
    assert found[0, 0, 8:24, 8:24].flatten()[:32].std() < 1e-3
    # Four pixels prove little: the eye stays near to what it truly is.
    assert (found - true)[..., ~large].abs().max() < 0.1


def test_the_plain_decoder_draws_the_small_picture_enlarged(
    command: Command, tmp_path: Path
) -> None:
    prepare(command, tmp_path, images=60)
    from dno_emoji.codec import EmojiCodec
    from recipe import looks
    from recipe.codec import blocks, components, halved, to_tensor
    from recipe.hacking import plain

    codec = EmojiCodec.from_pretrained(tmp_path / "vae").requires_grad_(False)
    images = to_tensor(np.load(tmp_path / "train.npz")["pixels"])
    latents = codec.encode(images).latent_dist.mode()
    small = looks.decode_plainly(codec, latents)

    # Of orthogonal components, so the inverse is their transpose over their squared lengths.
    mean, analysis = components(halved(images), count=24, whitening=0.5, patch=4)
    synthesis = analysis / analysis.square().sum(1, keepdim=True)
    expected = blocks(latents, 1) @ synthesis + mean
    torch.testing.assert_close(blocks(small, 4), expected, rtol=0, atol=1e-4)

    large = plain(codec).decode(latents).sample
    twice = small.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(large, twice, rtol=0, atol=1e-4)


def test_looks_are_measured_as_they_say(command: Command) -> None:
    from recipe import looks

    flat = torch.full((2, 3, 64, 64), 0.5)
    draw = torch.Generator().manual_seed(0)
    noisy = flat + 0.05 * torch.randn(flat.shape, generator=draw)
    assert looks.grain(flat) < 1e-6
    assert looks.grain(noisy) == pytest.approx(0.05, rel=0.15)
    middle = flat.clone()
    middle[..., 8:-8, 8:-8] = noisy[..., 8:-8, 8:-8]
    assert looks.grain(middle) < 1e-6

    assert looks.seam_ratio(noisy, 8) == pytest.approx(1, abs=0.05)
    tiles = torch.rand(2, 3, 8, 8, generator=draw)
    tiled = noisy + 0.2 * tiles.repeat_interleave(8, -1).repeat_interleave(8, -2)
    assert looks.seam_ratio(tiled, 8) > 1.3


def test_animals_are_taken_as_often_as_asked(command: Command, tmp_path: Path) -> None:
    np.savez(tmp_path / "pool.npz", animal=np.array([2, 15, 2, 36], np.int8))
    from recipe.train_diffusion import weights_of

    found = weights_of(tmp_path / "pool.npz", ["bear", "fish"], 3.0)
    assert found.tolist() == [3.0, 3.0, 3.0, 1.0]


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
