"""What must hold of noise, pictures and rewards for every input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dno.plugin import BuildContext, RewardConfig, gaussian_noise, pictures
from dno.registry.registry import REWARDS
from dno.testing import strategies as dno_st

CPU = BuildContext(device=torch.device("cpu"), dtype=torch.float32)
BOUNDS = {"brightness": (0.0, 1.0), "darkness": (0.0, 1.0), "contrast": (0.0, 0.5)}


@given(noise=dno_st.noise(min_batch=2), data=st.data())
def test_a_row_of_noise_comes_from_its_own_seed(noise: dno_st.Noise, data: st.DataObject) -> None:
    """In any order, and beside any neighbours."""
    order = data.draw(st.permutations(range(len(noise.seeds))))
    shuffled_BN = gaussian_noise(noise.draws, [noise.seeds[i] for i in order])
    assert torch.equal(shuffled_BN, noise.noise_BN[order])


@given(noise=dno_st.noise(), extra=dno_st.draw_shapes(max_draws=1))
def test_a_further_draw_leaves_those_before_it_as_they_were(
    noise: dno_st.Noise,
    extra: tuple[dno_st.Shape, ...],
) -> None:
    """So that more steps begin with the noise of fewer."""
    longer_BN = gaussian_noise([*noise.draws, *extra], noise.seeds)
    assert torch.equal(longer_BN[:, : noise.noise_BN.shape[1]], noise.noise_BN)


@given(dno_st.images())
def test_a_picture_is_within_half_a_level_of_its_image(images: torch.Tensor) -> None:
    found = pictures(images)
    assert len(found) == len(images)
    for picture, image in zip(found, images, strict=True):
        shown = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        assert shown.shape == image.shape
        assert (shown - 255 * image).abs().max() <= 0.5 + 1e-4


def score(name: str, images: torch.Tensor, prompts: tuple[str, ...]) -> torch.Tensor:
    config: RewardConfig = REWARDS.load(name)()
    return config.build(CPU)(images, prompts)


@pytest.mark.parametrize("name", BOUNDS)
@given(batch=dno_st.batches())
def test_a_score_is_in_the_bounds_that_its_help_states(name: str, batch: dno_st.Batch) -> None:
    low, high = BOUNDS[name]
    scores = score(name, batch.images, batch.prompts)
    assert scores.min() >= low - 1e-6
    assert scores.max() <= high + 1e-6


@pytest.mark.parametrize("name", [*BOUNDS, "jpeg"])
@given(batch=dno_st.batches(min_batch=2), data=st.data())
def test_scores_move_with_their_images(
    name: str,
    batch: dno_st.Batch,
    data: st.DataObject,
) -> None:
    """However the batch is ordered, an image keeps its score."""
    order = data.draw(st.permutations(range(len(batch.images))))
    scores = score(name, batch.images, batch.prompts)
    moved = score(name, batch.images[order], tuple(batch.prompts[i] for i in order))
    torch.testing.assert_close(moved, scores[order], rtol=0, atol=1e-6)


@given(batch=dno_st.batches())
def test_darkness_is_what_brightness_leaves(batch: dno_st.Batch) -> None:
    bright = score("brightness", batch.images, batch.prompts)
    dark = score("darkness", batch.images, batch.prompts)
    torch.testing.assert_close(bright + dark, torch.ones(len(batch.images)))


@given(batch=dno_st.batches())
def test_contrast_does_not_tell_an_image_from_its_mirror(batch: dno_st.Batch) -> None:
    scores = score("contrast", batch.images, batch.prompts)
    mirrored = score("contrast", batch.images.flip(3), batch.prompts)
    torch.testing.assert_close(mirrored, scores, rtol=1e-5, atol=1e-6)
