"""The gradient, where there is a torchvision for processors to be made of."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

if importlib.util.find_spec("torchvision") is None:
    pytest.skip("the gradient comes through processors of torchvision", allow_module_level=True)

from dno_vlm_judge.exact import VLMJudgeExact
from dno_vlm_judge.judge import VLMJudge
from test_vlm_judge import CPU, FAMILIES, PROMPTS, images

import dno
from dno.testing import RewardContract

ALL: dict[str, dict[str, Any]] = {**FAMILIES, "qwen2-vl": {}}


@pytest.mark.parametrize("family", ALL)
class TestContract(RewardContract):
    @pytest.fixture(autouse=True)
    def _config(self, folder_of: Callable[[str], Path], family: str) -> None:
        self.config = VLMJudgeExact(model=str(folder_of(family)), **ALL[family])


@pytest.mark.parametrize("family", ALL)
def test_it_scores_as_the_black_box_does(folder_of: Callable[[str], Path], family: str) -> None:
    folder = str(folder_of(family))
    # Of the size that the model looks at and in whole levels, so that neither resizing nor rounding
    # tells them apart.
    levels = (images(size=(32, 32)) * 255).round() / 255
    exact = VLMJudgeExact(model=folder, **ALL[family]).build(CPU)
    boxed = VLMJudge(model=folder, **ALL[family]).build(CPU)
    torch.testing.assert_close(exact(levels, PROMPTS), boxed(levels, PROMPTS), atol=1e-4, rtol=0)


def test_it_is_climbed_by_its_gradient(folder_of: Callable[[str], Path]) -> None:
    reward = {"use": "vlm-judge-exact", "model": str(folder_of("qwen2-vl"))}
    result = dno.optimize(
        "a cat", reward=reward, iterations=2, steps=4, settings={"gradient.method": "exact"}
    )
    assert result.history[0].grad_norm[0] > 0


def test_half_types_have_a_gradient(llava: Path) -> None:
    pixels = images().requires_grad_()
    score = VLMJudgeExact(model=str(llava), dtype="bfloat16").build(CPU)(pixels, PROMPTS)
    (grad,) = torch.autograd.grad(score.sum(), pixels)
    assert score.dtype == torch.float32
    assert grad.isfinite().all()
    assert grad.any()
