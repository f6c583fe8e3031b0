"""What a run hands back: short in words, whole in a notebook, and nothing in it runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from torch import Tensor

import dno
from dno.core.events import RunFinished, RunInfo, RunStarted, StepDone, hookimpl
from dno.core.function import FunctionSampler
from dno.report.result import Result
from dno.runs.run_config import RunConfig

EVIL = 'x<script>alert("1")</script>\'&'
SAMPLER = FunctionSampler(torch.sigmoid, [(3, 8, 8)])


def bright(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def evil(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images[:, 0].mean(dim=(1, 2))


evil.__name__ = EVIL


def run(**options: object) -> dno.Result:
    chosen = {
        "reward": bright,
        "sampler": SAMPLER,
        "iterations": 3,
        "paper": True,
        "lr": 0.1,
        **options,
    }
    return dno.optimize(chosen.pop("prompt", "a cat"), **chosen)


@pytest.mark.parametrize("batch", [1, 9])
def test_its_repr_is_short_and_says_how_it_went(batch: int) -> None:
    result = run(batch=batch)
    told = repr(result)
    assert len(told) < 400
    assert told.startswith("Result(finished, ")
    before = result.initial.rewards["bright"].mean()
    after = result.best.rewards["bright"].mean()
    assert f"bright {before:.4g} -> {after:.4g}" in told
    assert len(repr(result.best)) < 400
    assert "tensor" not in told + repr(result.best)


def test_images_are_the_best_as_pictures() -> None:
    result = run(batch=2)
    assert len(result.images) == 2
    for picture, sample in zip(result.images, result.best.samples, strict=True):
        levels = (255 * sample).round().byte().permute(1, 2, 0).numpy()
        assert picture.mode == "RGB"
        assert np.array_equal(np.asarray(picture), levels)


class Page(HTMLParser):
    """Elements that are opened and closed in order, and what an element's attributes name."""

    VOID = ("img",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def test_in_a_notebook_it_shows_pictures_curves_and_verdict_and_needs_nothing_else() -> None:
    result = run(batch=2, monitor=evil)
    page = Page(result._repr_html_())
    assert page.open == []
    assert page.tags.count("img") == 4
    # Reward, monitor and log P, a line per sample.
    assert page.tags.count("svg") == 3
    assert page.tags.count("polyline") == 6
    assert result.verdict() in page.text
    links = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert all(value is not None and value.startswith("data:image/png;base64,") for value in links)
    assert "url(" not in result._repr_html_()


@pytest.mark.parametrize("role", ["reward", "monitor", "regularizer", "failure"])
def test_nothing_that_somebody_named_runs_in_a_notebook(role: str) -> None:
    def held(noise_BN: Tensor, generators: Sequence[object]) -> Tensor:
        return 1e-3 * noise_BN.square().mean(1)

    def sick(images: Tensor, prompts: Sequence[str]) -> Tensor:
        if EVIL in prompts:
            raise ValueError(EVIL)
        return bright(images, prompts)

    held.__name__ = EVIL
    parts: dict[str, dict[str, object]] = {
        "reward": {"reward": evil},
        "monitor": {"monitor": evil},
        "regularizer": {"regularizer": held},
        "failure": {"reward": sick, "prompt": ["a cat", EVIL]},
    }
    result = run(**parts[role])
    text = result._repr_html_()
    page = Page(text)
    assert page.open == []
    assert "script" not in page.tags
    assert "<script" not in text
    assert not any(name.startswith("on") for name, _ in page.attributes)
    if role != "regularizer":
        assert EVIL in page.text


def test_a_run_of_which_nothing_is_known_can_be_shown() -> None:
    def sometimes(images: Tensor, prompts: Sequence[str]) -> Tensor:
        known = torch.tensor([prompt == "well" for prompt in prompts])
        return bright(images, prompts).where(known, math.nan)

    result = run(reward=sometimes, prompt=["ill", "well"], iterations=0)
    assert result.status is dno.Status.PARTIAL
    page = Page(result._repr_html_())
    assert page.open == []
    assert "nan" not in "".join(value or "" for name, value in page.attributes if name == "points")
    assert "failed: " in page.text


def test_a_result_is_an_outcome_with_words() -> None:
    result = run()
    assert isinstance(result, dno.Outcome)
    assert result.raise_for_status() is result
    again = Result.of(result)
    assert again.verdict() == result.verdict()
    assert repr(again) == repr(result)


class Listening:
    def __init__(self) -> None:
        self.runs: list[RunInfo] = []

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        self.runs.append(event.run)

    @hookimpl
    def step_done(self, event: StepDone) -> None:
        self.runs.append(event.run)

    @hookimpl
    def run_finished(self, event: RunFinished) -> None:
        self.runs.append(event.run)


def test_events_carry_the_whole_configuration(tmp_path) -> None:
    listening = Listening()
    config = RunConfig.parse(
        {
            "prompts": ["a cat", "a dog"],
            "rewards": [{"use": bright, "weight": 2.0}],
            "sampler": SAMPLER,
            "optimizer": {"use": "sgd", "lr": 0.25},
            "warm_start": {"optimizer": "best-of-n", "iterations": 2},
            "coarse": [],
            "iterations": 1,
            "observers": [listening],
        }
    )
    dno.run(config, tmp_path / "run")
    assert len(listening.runs) == 1 + 4 + 1
    for told in listening.runs:
        assert told.config == config.dump()
        assert told.items == config.items()
        assert (told.iterations, told.start, told.folder) == (3, 0, tmp_path / "run")
    assert dno.open_run(tmp_path / "run").values == listening.runs[0].config
