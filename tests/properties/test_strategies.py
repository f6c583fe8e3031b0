"""The strategies themselves: what they draw is what plugins are given, and all kinds of it come."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from dno.core.noise import gaussian_noise
from dno.runs.run_config import RunConfig
from dno.testing import strategies as dno_st

# To find an example that is there takes a few hundred tries; how small it is does not matter here.
SEARCH = settings(
    max_examples=1000,
    phases=[Phase.generate],
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@given(prompt=dno_st.prompts(max_size=12), seed=dno_st.seeds())
def test_a_run_takes_every_prompt_and_seed(prompt: str, seed: int) -> None:
    config = RunConfig.parse({"prompts": [prompt], "seeds": [seed], "rewards": ["brightness"]})
    assert config.prompts == (prompt,)
    assert config.seeds == (seed,)
    assert len(prompt) <= 12


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(lambda text: "/" in text, id="a slash"),
        pytest.param(lambda text: '"' in text, id="a quote"),
        pytest.param(lambda text: " " in text, id="a space"),
        pytest.param(lambda text: not text.isascii(), id="another script"),
        pytest.param(lambda text: len(text) == 1, id="one character"),
    ],
)
def test_prompts_are_of_every_kind(kind: Any) -> None:
    assert kind(find(dno_st.prompts(), kind, settings=SEARCH))


@given(dno_st.noise())
def test_noise_is_what_its_seeds_and_draws_say(noise: dno_st.Noise) -> None:
    entries = sum(math.prod(shape) for shape in noise.draws)
    assert noise.noise_BN.shape == (len(noise.seeds), entries)
    assert noise.noise_BN.dtype == torch.float32
    assert torch.equal(noise.noise_BN, gaussian_noise(noise.draws, noise.seeds))


@given(dno_st.draw_shapes(max_draws=3, max_entries=50))
def test_draws_are_as_many_and_as_large_as_was_asked(draws: tuple[dno_st.Shape, ...]) -> None:
    assert 1 <= len(draws) <= 3
    assert all(1 <= math.prod(shape) <= 50 for shape in draws)


@pytest.mark.parametrize("sides", [1, 2, 3, 4])
def test_draws_have_every_number_of_sides(sides: int) -> None:
    found = find(dno_st.draw_shapes(), lambda draws: len(draws[0]) == sides, settings=SEARCH)
    assert len(found[0]) == sides


@given(dno_st.noise(draws=[(2, 3), (5,)], min_batch=2, max_batch=2))
def test_noise_can_be_asked_for_by_its_draws(noise: dno_st.Noise) -> None:
    assert noise.draws == ((2, 3), (5,))
    assert noise.noise_BN.shape == (2, 11)
    assert len(set(noise.seeds)) == 2


@given(dno_st.images(min_batch=2, max_batch=3, min_side=4, max_side=6))
def test_images_are_images(images: torch.Tensor) -> None:
    count, channels, height, width = images.shape
    assert count in (2, 3)
    assert channels == 3
    assert 4 <= height <= 6
    assert 4 <= width <= 6
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(lambda image: (image == 0).all(), id="black"),
        pytest.param(lambda image: (image == 1).all(), id="white"),
        pytest.param(lambda image: image.min() > 0 and image.unique().numel() > 300, id="pixels"),
        pytest.param(lambda image: set(image.unique().tolist()) == {0, 1}, id="edges"),
        pytest.param(lambda image: 0 < image.diff(dim=-1).abs().max() < 0.1, id="smooth"),
        pytest.param(lambda image: image.shape[1] != image.shape[2], id="not square"),
    ],
)
def test_images_are_of_every_kind(kind: Any) -> None:
    batch = find(dno_st.images(), lambda images: bool(kind(images[0])), settings=SEARCH)
    assert kind(batch[0])


@given(dno_st.batches(min_side=4, max_side=4))
def test_a_batch_has_as_many_prompts_as_images(batch: dno_st.Batch) -> None:
    assert len(batch.prompts) == len(batch.images)
    assert all(prompt.strip() for prompt in batch.prompts)


@given(dno_st.batches(prompt=st.sampled_from(["a cat", "a dog"]), min_side=4, max_side=4))
def test_the_prompts_of_a_batch_can_be_chosen(batch: dno_st.Batch) -> None:
    assert set(batch.prompts) <= {"a cat", "a dog"}


def test_images_are_single_precision_whatever_torchs_default() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        found = [
            find(dno_st.images(), lambda images, kind=kind: kind(images[0]), settings=SEARCH)
            for kind in (lambda image: image.std() == 0, lambda image: image.std() > 0)
        ]
    finally:
        torch.set_default_dtype(before)
    assert [images.dtype for images in found] == [torch.float32, torch.float32]


@pytest.mark.slow
def test_without_hypothesis_it_is_said_what_to_install() -> None:
    """And `dno.testing` itself does without."""
    code = (
        "import sys\n"
        "sys.modules['hypothesis'] = None\n"
        "import dno.testing\n"
        "try: import dno.testing.strategies\n"
        "except ModuleNotFoundError as error: print(error, '|', error.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "dno.testing.strategies needs hypothesis, which is not installed; "
        'try: pip install "hypothesis>=6.112" | hypothesis\n'
    )
