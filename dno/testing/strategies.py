"""Hypothesis strategies for what plugins are given: noise, images, prompts, seeds.

A property is a sentence that holds for every input. Say it once, and hypothesis looks for an input
that breaks it, then for the smallest such input:

    from hypothesis import given

    from dno.testing import strategies as dno_st

    @given(batch=dno_st.batches())
    def test_greenness_is_a_share(batch):
        scores = greenness(batch.images, batch.prompts)
        assert ((0 <= scores) & (scores <= 1)).all()

Each strategy is a function, whose arguments narrow what is drawn. All numbers come from seeds that
hypothesis draws, so that a failure is found again by itself. Tensors are float32, on the CPU.

This module needs hypothesis, which `dno` itself does not: put it among the requirements of your
tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dno.core.noise import gaussian_noise

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "dno.testing.strategies needs hypothesis, which is not installed; try: "
        'pip install "hypothesis>=6.112"',
        name=error.name,
    ) from error

Shape = tuple[int, ...]

GREY_LEVELS = (0.0, 0.5, 1.0)
"""What a flat image is filled with, the plainest first."""

IMAGE_KINDS = ("flat", "pixels", "edges", "smooth")
"""What an image is made of: one grey, uniform random pixels, pixels that are 0 or 1, or a gradient
from one colour to another."""


@dataclass(frozen=True)
class Noise:
    """Standard Gaussian noise, as a sampler that states these draws would start from."""

    draws: tuple[Shape, ...]
    """Shape of each Gaussian draw of one sample, in the order used."""
    seeds: tuple[int, ...]
    """One a sample; row i of the noise comes from seed i alone."""
    noise_BN: Tensor
    """The noise, a row for each sample."""


@dataclass(frozen=True)
class Batch:
    """What a reward is called with."""

    images: Tensor
    """`B x 3 x H x W`, RGB in [0, 1]."""
    prompts: tuple[str, ...]
    """One for each image."""


def seeds() -> SearchStrategy[int]:
    """Every seed that a run accepts: 0 up to 2 ** 63 - 1."""
    return st.integers(min_value=0, max_value=2**64 - 1)


def prompts(*, max_size: int = 40) -> SearchStrategy[str]:
    """Every kind of prompt that a run accepts: text on one line, which is not blank.

    Among them are prompts in any script, with quotes, brackets, slashes and blanks of every width,
    and with characters that nothing shows, such as joiners and marks of direction.

    Args:
        max_size: characters in the longest.
    """
    # All but control characters and surrogates.
    characters = st.characters(exclude_categories=["Cc", "Cs"])
    return st.text(characters, min_size=1, max_size=max_size).filter(_is_a_prompt)


def _is_a_prompt(text: str) -> bool:
    return bool(text.strip())


def draw_shapes(
    *,
    max_draws: int = 4,
    max_entries: int = 200,
) -> SearchStrategy[tuple[Shape, ...]]:
    """Shapes of the Gaussian draws of one sample: vectors, latents `C x h x w`, videos.

    Args:
        max_draws: draws of one sample, at most.
        max_entries: entries of one draw, at most.
    """
    return st.lists(_shapes(max_entries), min_size=1, max_size=max_draws).map(tuple)


@st.composite
def _shapes(draw: DrawFn, max_entries: int) -> Shape:
    """One shape of one to four sides."""
    sides: list[int] = []
    left = max_entries
    for _ in range(draw(st.integers(min_value=1, max_value=4))):
        side = draw(st.integers(min_value=1, max_value=min(left, 16)))
        sides.append(side)
        left //= side
    return tuple(sides)


def noise(
    *,
    draws: Sequence[Shape] | None = None,
    min_batch: int = 1,
    max_batch: int = 3,
) -> SearchStrategy[Noise]:
    """Standard Gaussian noise of one or more samples, each from a seed of its own.

    Args:
        draws: shapes of the draws; shapes at random where none are given.
        min_batch: samples, at least.
        max_batch: samples, at most.
    """
    shapes = draw_shapes() if draws is None else st.just(tuple(draws))
    chosen = st.lists(seeds(), min_size=min_batch, max_size=max_batch, unique=True)
    return st.builds(_noise_from, shapes, chosen)


def _noise_from(draws: tuple[Shape, ...], seeds: Sequence[int]) -> Noise:
    return Noise(draws, tuple(seeds), gaussian_noise(draws, seeds))


@st.composite
def images(
    draw: DrawFn,
    /,
    *,
    min_batch: int = 1,
    max_batch: int = 3,
    min_side: int = 8,
    max_side: int = 24,
) -> Tensor:
    """Images `B x 3 x H x W`, RGB in [0, 1].

    They are of one size, as those of one run are, and seldom square. Each is of a kind of its own:
    black, grey or white all over; random pixels; pixels that are 0 or 1; smooth colours.

    Args:
        draw: hypothesis gives it.
        min_batch: images, at least.
        max_batch: images, at most.
        min_side: pixels of height and width, at least.
        max_side: pixels of height and width, at most.
    """
    side = st.integers(min_value=min_side, max_value=max_side)
    height = draw(side)
    width = draw(side)
    shown = st.lists(_images_of(height, width), min_size=min_batch, max_size=max_batch)
    return torch.stack(draw(shown))


@st.composite
def _images_of(draw: DrawFn, height: int, width: int) -> Tensor:
    """One image of this size, `3 x H x W`."""
    kind = draw(st.sampled_from(IMAGE_KINDS))
    if kind == "flat":
        level = draw(st.sampled_from(GREY_LEVELS))
        return torch.full((3, height, width), level, dtype=torch.float32)

    random = torch.Generator("cpu").manual_seed(draw(seeds()))
    pixels = torch.rand(3, height, width, generator=random, dtype=torch.float32)
    if kind == "pixels":
        return pixels
    if kind == "edges":
        return pixels.round()

    assert kind == "smooth", kind
    start = pixels[:, :1, :1]
    end = pixels[:, -1:, -1:]
    down = torch.linspace(0, 1, height, dtype=torch.float32)[:, None]
    across = torch.linspace(0, 1, width, dtype=torch.float32)[None, :]
    return torch.lerp(start, end, (down + across) / 2)


def batches(
    *,
    prompt: SearchStrategy[str] | None = None,
    min_batch: int = 1,
    max_batch: int = 3,
    min_side: int = 8,
    max_side: int = 24,
) -> SearchStrategy[Batch]:
    """Images, and as many prompts: what a reward is called with.

    Args:
        prompt: where each prompt comes from; `prompts()` if not given.
        min_batch: images, at least.
        max_batch: images, at most.
        min_side: pixels of height and width, at least.
        max_side: pixels of height and width, at most.
    """
    shown = images(
        min_batch=min_batch,
        max_batch=max_batch,
        min_side=min_side,
        max_side=max_side,
    )
    return _batches_of(shown, prompts() if prompt is None else prompt)


@st.composite
def _batches_of(
    draw: DrawFn,
    images: SearchStrategy[Tensor],
    prompt: SearchStrategy[str],
) -> Batch:
    shown = draw(images)
    texts = draw(st.lists(prompt, min_size=len(shown), max_size=len(shown)))
    return Batch(shown, tuple(texts))
