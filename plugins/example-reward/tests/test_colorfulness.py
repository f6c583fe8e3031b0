"""The reward against the published formula, and against what dno asks of every reward."""

import numpy as np
import pytest
import torch
from dno_colorfulness import Colorfulness, colorfulness

from dno.plugin import BuildContext
from dno.testing import RewardContract


class TestColorfulness(RewardContract):
    """What dno asks of every reward."""

    config = Colorfulness()


class TestTarget(RewardContract):
    """The same, with the option."""

    config = Colorfulness(target=0.3)


def test_formula():
    """The metric, computed by numpy from 8-bit levels as in the paper."""
    levels = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 12)).astype(float)
    for (red, green, blue), found in zip(
        levels, colorfulness(torch.tensor(levels / 255)), strict=True
    ):
        rg, yb = red - green, (red + green) / 2 - blue
        expected = np.sqrt(rg.var() + yb.var()) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
        assert 100 * found.item() == pytest.approx(expected, rel=1e-4)


def test_grey():
    """An exactly grey image scores 0, and its gradient leads away from grey."""
    grey = torch.full((1, 3, 8, 8), 0.4, requires_grad=True)
    value = colorfulness(grey)
    (gradient,) = torch.autograd.grad(value.sum(), grey)
    assert value.item() == pytest.approx(0, abs=1e-5)
    assert gradient.isfinite().all()
    assert colorfulness(grey + 0.01 * gradient.sign()) > 0.001


def test_target():
    """The best image is the one that has the target's colourfulness."""
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    context = BuildContext(device=torch.device("cpu"), dtype=torch.float32)
    reward = Colorfulness(target=colorfulness(images).item()).build(context)
    greyer, more = ((images - 0.5) * factor + 0.5 for factor in (0.5, 1.5))
    assert reward(images, ["a cat"]) == 0
    assert reward(greyer, ["a cat"]) < -0.1
    assert reward(more, ["a cat"]) < -0.1
