"""What a run may start from: results, noise, pictures and paths, each kept so that it repeats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import dno
from dno.core.function import FunctionSampler
from dno.errors import ConfigError
from dno.runs import run as running
from dno.runs.load import load
from dno.runs.run_config import RunConfig

N = 2 * 3 * 8 * 8


class TwoDraws(FunctionSampler):
    """Pictures of two draws, found again from a picture of the first alone."""

    def __init__(self) -> None:
        super().__init__(lambda one, two: torch.sigmoid(one + two / 2), [(3, 8, 8), (3, 8, 8)])

    def noise_of(self, picture: Image.Image, sample: Any) -> Tensor:
        pixels = torch.tensor(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)
        first = torch.logit(pixels.clamp(0.01, 0.99)).flatten().expand(len(sample.noise_BN), -1)
        return torch.cat([first, torch.zeros_like(first)], dim=1)


SAMPLER = TwoDraws()


def bright(images: Tensor, prompts: Any) -> Tensor:
    return images.mean(dim=(1, 2, 3))


QUICK = {"log_p_floor": "-inf", "reports": [], "p_floor": 0}
"""Without a look at the noise's health."""


def go(**options: Any) -> dno.Result:
    given = {"reward": bright, "sampler": SAMPLER, "iterations": 1, "batch": 2, **options}
    return dno.optimize("a cat", settings=QUICK, **given)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dno.Result:
    """A run that ended, in a folder of its own."""
    return go(out=tmp_path_factory.mktemp("runs") / "before", seed=5)


FORMS: dict[str, Callable[[dno.Result], Any]] = {
    "a result": lambda run: run,
    "a snapshot": lambda run: run.best,
    "flat noise": lambda run: run.best.noise_BN,
    "noise with a gradient": lambda run: run.best.noise_BN.clone().requires_grad_(),
    "an array": lambda run: run.best.noise_BN.numpy(),
    "a folder": lambda run: run.folder,
    "a folder by name": lambda run: str(run.folder),
    "a file of noise": lambda run: run.folder / "noise.safetensors",
    "a run that was read back": lambda run: dno.open_run(run.folder),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_run_starts_there(form: Callable[[dno.Result], Any], before: dno.Result) -> None:
    result = go(start=form(before), iterations=0)
    assert torch.equal(result.initial.noise_BN, before.best.noise_BN)


@pytest.mark.parametrize("name", ["a result", "a folder"])
def test_its_folder_repeats_and_resumes_it(name: str, before: dno.Result, tmp_path: Path) -> None:
    form = FORMS[name]
    result = go(start=form(before), out=tmp_path / "run")

    # What the file names is there, and has the same noise.
    values = dno.open_run(tmp_path / "run").values
    again = go(start=values["start"], out=tmp_path / "again")
    assert torch.equal(again.best.noise_BN, result.best.noise_BN)
    config = load_config(tmp_path / "run", iterations=3)
    longer = running.go_on(config, tmp_path / "run")
    whole = go(start=form(before), iterations=3)
    assert torch.equal(longer.best.noise_BN, whole.best.noise_BN)


def load_config(folder: Path, iterations: int) -> RunConfig:
    """The run's own, with the parts that no file can hold."""
    values = {**dno.open_run(folder).values, "iterations": iterations}
    return RunConfig.parse({**values, "sampler": SAMPLER, "rewards": [bright]})


def test_one_row_serves_all_samples(before: dno.Result) -> None:
    one = before.best.noise_BN[1]
    for given in (one, one[None]):
        assert torch.equal(go(start=given, iterations=0).initial.noise_BN, one.expand(2, -1))


@pytest.mark.parametrize("name", ["start", "latents"])
@pytest.mark.parametrize("rows", [(), (1,), (2,)], ids=str)
def test_a_first_latent_alone_leaves_the_other_draws_to_the_seeds(
    name: str, rows: tuple[int, ...]
) -> None:
    latents = torch.randn(*rows, 3, 8, 8)
    initial = go(**{name: latents}, iterations=0).initial.noise_BN
    own = go(iterations=0).initial.noise_BN
    assert torch.equal(initial[:, : N // 2], latents.reshape(-1, N // 2).expand(2, -1))
    assert torch.equal(initial[:, N // 2 :], own[:, N // 2 :])


def picture() -> Image.Image:
    return Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))


def test_a_picture_is_where_a_run_starts_and_is_kept(tmp_path: Path) -> None:
    picture().save(tmp_path / "photo.png")
    live = go(start=picture(), out=tmp_path / "live")
    named = go(start=tmp_path / "photo.png", out=tmp_path / "named")
    drawn = torch.tensor(np.asarray(picture())).permute(2, 0, 1) / 255
    assert (live.initial.samples[0] - drawn).abs().max() < 0.02
    assert torch.equal(live.best.noise_BN, named.best.noise_BN)
    assert dno.open_run(tmp_path / "named").values["start"] == str(tmp_path / "photo.png")
    kept = dno.open_run(tmp_path / "live").values["start"]
    assert kept == str(tmp_path / "live" / "start.png")
    assert torch.equal(go(start=kept).initial.noise_BN, live.initial.noise_BN)


def test_a_picture_is_searched_for_once_and_not_when_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(start=picture(), out=tmp_path / "run")
    monkeypatch.setattr(TwoDraws, "noise_of", lambda *_: pytest.fail("searched again"))
    config = load_config(tmp_path / "run", iterations=2)
    assert len(running.go_on(config, tmp_path / "run").history) == 3


def test_a_study_tells_starts_apart_and_goes_on_with_them(tmp_path: Path) -> None:
    def study(start: Any) -> dno.Study:
        return dno.batch(
            ["a cat"], out=tmp_path, reward=bright, sampler=SAMPLER, iterations=0, start=start
        )

    for start in (torch.zeros(N), torch.ones(N), torch.ones(N)):
        study(start)
    runs = dno.list_runs(tmp_path / "items")
    assert sorted(float(run.noise("initial").mean()) for run in runs) == [0, 1]

    # As if it had been killed at its end.
    (runs[0].path / "result.json").unlink()
    value = runs[0].noise("initial").mean()
    assert len(study(torch.full((N,), value)).runs()) == 2
    assert dno.open_run(runs[0].path).status == "finished"


def test_models_that_are_loaded_start_anywhere(before: dno.Result) -> None:
    session = dno.load(reward=bright, sampler=SAMPLER, batch=2, iterations=0)
    for start in (before, picture(), before.initial):
        assert len(session.optimize("a cat", start=start).history) == 1


def test_a_path_that_was_relative_stays_where_it_led(
    before: dno.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert before.folder is not None
    monkeypatch.chdir(before.folder.parent)
    go(start=before, out="relative")
    assert Path(dno.open_run("relative").values["start"]).is_absolute()


WRONG: dict[str, tuple[Any, str]] = {
    "rows": (torch.randn(3, N), "holds noise of 3 samples, this run has 2"),
    "entries": (torch.randn(2, N - 1), f"noise of shape 2 x {N - 1}; this run needs 2 x {N} .or 1"),
    "another latent": (torch.randn(2, 4, 8, 8), "or its first draw alone, 2 x 3 x 8 x 8"),
    "whole numbers": (torch.arange(N), "floating-point numbers, got 384 of torch.int64"),
    "not finite": (torch.full((N,), torch.nan), "not finite"),
    "nothing": (torch.randn(0), "floating-point numbers, got 0 of"),
    "a number": (3, "should be a run folder, a file of noise, .* got 3"),
    "a list": ([1.0], "should be a run folder"),
    "nowhere": ("nowhere", "there is no file .*nowhere"),
    "no folder of a run": (Path(__file__).parent, "there is no file .*unit/noise.safetensors"),
    "no noise": (__file__, "holds no noise as a run saves it"),
    "of a run that kept nothing": (
        {"python": "noise, 0123456789ab"},
        "was noise, 0123456789ab, in Python, and was kept nowhere",
    ),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_what_no_run_can_start_from_is_told(case: tuple[Any, str], tmp_path: Path) -> None:
    start, told = case
    with pytest.raises(ConfigError, match=rf"^start: (?!start).*{told}"):
        go(start=start, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_broken_picture_is_told(tmp_path: Path) -> None:
    picture().resize((64, 64)).save(tmp_path / "photo.png")
    whole = (tmp_path / "photo.png").read_bytes()
    (tmp_path / "photo.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="photo.png cannot be read as a picture"):
        go(start=tmp_path / "photo.png")


def test_a_sampler_that_finds_no_noise_for_pictures_is_told() -> None:
    sampler = FunctionSampler(torch.sigmoid, [(3, 8, 8)])
    with pytest.raises(ConfigError, match="start: is a picture, and this sampler cannot find"):
        go(start=picture(), sampler=sampler)


def test_two_starts_are_told(tmp_path: Path) -> None:
    picture().save(tmp_path / "photo.png")
    config = RunConfig.parse(
        {
            "prompts": "a cat",
            "rewards": ["brightness"],
            "start": torch.randn(4),
            "sampler": {"use": "ddim", "start_image": str(tmp_path / "photo.png")},
        }
    )
    with pytest.raises(ConfigError, match="start: says where to start, and so does sampler.start"):
        load(config)


def test_a_run_that_keeps_nothing_has_its_start_named() -> None:
    config = RunConfig.parse({"prompts": "x", "rewards": ["brightness"], "start": torch.zeros(4)})
    told = config.dump()["start"]["python"]
    assert told.startswith("noise, ")
    other = RunConfig.parse({"prompts": "x", "rewards": ["brightness"], "start": torch.ones(4)})
    assert other.dump()["start"]["python"] != told
