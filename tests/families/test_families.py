"""The pipeline sampler over families of models and schedulers, on tiny real pipelines."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dno_builtin.samplers._pipeline import PipelineSampler
from tiny_families import FAMILIES, OTHERS, tiny_call, tiny_pipeline

from dno.plugin import ConfigError, RunError, quiet

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "docs" / "figures" / "families.py"


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("families_page", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


page = _script()

ROUNDING = 5e-5
"""Of a pixel: float32 rounding, which networks of random weights amplify."""
SOUNDS = ("audioldm", "stable-audio")
"""Families whose samples are in [-1, 1]."""
SLOPE = 5e-3
"""Of the slope: finite differences across clamps, and schedulers that step in float32."""


@pytest.mark.parametrize("case", page.CASES, ids=str)
def test_images_gradients_batches_and_draws(case: Any) -> None:
    found = page.measure(case)
    assert found.draws == case.draws
    assert found.difference < ROUNDING
    assert found.batch < ROUNDING
    least = -1 if case.family in SOUNDS else 0
    assert least <= found.low < found.high <= 1
    assert found.reached > 0
    assert found.gradient < SLOPE


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("amused", RunError, "the sampler drew with multinomial, which is not Gaussian noise"),
        (
            "dit",
            ConfigError,
            "DiTPipeline takes no `prompt`; only pipelines that draw from a prompt are sampled",
        ),
    ],
)
def test_pipelines_that_no_noise_steers_are_refused_in_one_sentence(
    name: str, error: type[Exception], sentence: str
) -> None:
    def attempt() -> None:
        sampler = PipelineSampler(page.pipeline(name), steps=2, options=tiny_call(name))
        sampler.bind(["a cat"], [0])

    with pytest.raises(error, match=sentence) as caught:
        attempt()
    assert "\n" not in str(caught.value)


UNLOADABLE = pytest.mark.xfail(
    raises=ValueError,
    strict=True,
    reason=(
        "diffusers 0.42.1 saves its PaellaVQModel under a library where it does not find it again"
    ),
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[UNLOADABLE] if name == "stable-cascade" else [])
        for name in FAMILIES
    ],
)
def test_a_family_is_small_and_survives_a_folder(name: str, tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    pipe = page.pipeline(name)
    with quiet():
        pipe.save_pretrained(tmp_path)
        again = DiffusionPipeline.from_pretrained(tmp_path)

    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 2e6
    assert type(again) is type(pipe)

    case = page.Case(name, 0)
    images, same = (
        page.plain(each, each.scheduler, tiny_call(name), case) for each in (pipe, again)
    )
    assert torch.equal(images, same)


def test_weights_are_the_seeds_and_nothing_else_is_touched() -> None:
    state = torch.get_rng_state()
    one = tiny_pipeline("flux", 0).transformer.state_dict()
    same = tiny_pipeline("flux", 0).transformer.state_dict()
    other = tiny_pipeline("flux", 1).transformer.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_the_page_lists_every_case() -> None:
    rows = []
    for line in page.PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| "):
            rows.append([cell.strip() for cell in line.split("|")[1:-1]])

    # Tables begin with their heads.
    families = [row[0] for row in rows if len(row) == 7][1:]
    assert families == [case.family for case in page.CASES]

    refused = [row for row in rows if len(row) == 2][1:]
    assert refused == [[type(page.pipeline(name)).__name__, page.refusal(name)] for name in OTHERS]
