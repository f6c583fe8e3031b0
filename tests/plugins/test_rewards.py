import io
import math

import pytest
import torch
from dno_builtin.rewards.brightness import Brightness
from dno_builtin.rewards.contrast import Contrast
from dno_builtin.rewards.darkness import Darkness
from dno_builtin.rewards.jpeg import Jpeg
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from dno.plugin import BuildContext, RewardConfig, RunError

CPU = BuildContext(device=torch.device("cpu"), dtype=torch.float32)
BLACK, WHITE = torch.zeros(1, 3, 8, 12), torch.ones(1, 3, 8, 12)
CHECKS = ((torch.arange(8)[:, None] + torch.arange(12)) % 2).float().expand(1, 3, 8, 12)


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def score(config: RewardConfig, images: Tensor) -> Tensor:
    values = config.build(CPU)(images, ["a cat"] * len(images))
    assert values.shape == (len(images),)
    assert values.dtype == images.dtype
    return values


@pytest.mark.parametrize(
    ("config", "black", "white", "checks"),
    [
        pytest.param(Brightness(), 0.0, 1.0, 0.5, id="brightness"),
        pytest.param(Darkness(), 1.0, 0.0, 0.5, id="darkness"),
        pytest.param(Contrast(), 0.0, 0.0, 0.5, id="contrast"),
    ],
)
def test_known_images(config: RewardConfig, black: float, white: float, checks: float) -> None:
    values = score(config, torch.cat([BLACK, WHITE, CHECKS]))
    assert values.tolist() == pytest.approx([black, white, checks], abs=1e-6)


def test_contrast_is_the_deviation_of_what_a_screen_shows() -> None:
    images = 3 * random_images(2, 3, 8, 8) - 1
    shown = images.clamp(0, 1)
    luma = 0.2126 * shown[:, 0] + 0.7152 * shown[:, 1] + 0.0722 * shown[:, 2]
    expected = luma.flatten(1).std(dim=1, correction=0)
    torch.testing.assert_close(score(Contrast(), images), expected)


@pytest.mark.parametrize(
    "config", [Brightness(), Darkness(), Contrast()], ids=["brightness", "darkness", "contrast"]
)
def test_gradients_equal_finite_differences(config: RewardConfig) -> None:
    images = (0.1 + 0.8 * random_images(2, 3, 4, 5).double()).requires_grad_()
    reward = config.build(CPU)
    assert getattr(reward, "differentiable", True)
    assert torch.autograd.gradcheck(lambda x: reward(x, ["", ""]), images)
    (gradient,) = torch.autograd.grad(reward(images, ["", ""]).sum(), images)
    assert gradient.abs().max() > 1e-3


def test_contrast_has_a_gradient_at_a_flat_image() -> None:
    images = torch.full((1, 3, 4, 4), 0.3, requires_grad=True)
    score(Contrast(), images).sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()


@pytest.mark.parametrize(
    "config",
    [Brightness(), Darkness(), Contrast(), Jpeg()],
    ids=["brightness", "darkness", "contrast", "jpeg"],
)
def test_an_image_does_not_depend_on_its_neighbours(config: RewardConfig) -> None:
    images = random_images(3, 3, 16, 24)
    whole = score(config, images)
    for row in range(3):
        torch.testing.assert_close(
            score(config, images[row : row + 1]), whole[row : row + 1], rtol=0, atol=1e-7
        )
    assert len(set(whole.tolist())) == 3


@pytest.mark.parametrize("quality", [50, 95])
def test_jpeg_is_the_size_of_the_file(quality: int) -> None:
    images = random_images(1, 3, 24, 40).requires_grad_()
    pixels = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    values = score(Jpeg(quality=quality), images)
    assert values.item() == pytest.approx(-file.tell() / 1000)
    assert not values.requires_grad


def test_jpeg_likes_what_compresses() -> None:
    flat, noisy = score(
        Jpeg(), torch.cat([torch.full((1, 3, 64, 64), 0.5), random_images(1, 3, 64, 64)])
    )
    assert noisy < flat < 0
    assert score(Jpeg(quality=10), random_images(1, 3, 64, 64)) > noisy


def test_jpeg_says_that_it_has_no_gradient() -> None:
    assert Jpeg.differentiable is False
    assert getattr(Jpeg().build(CPU), "differentiable", True) is False
    assert Brightness.differentiable


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 1, 8, 8), (2, 40)])
def test_jpeg_refuses_what_is_no_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(RunError, match="B x 3 x H x W, got"):
        Jpeg().build(CPU)(torch.zeros(shape), ["a"] * shape[0])


@pytest.mark.parametrize("quality", [0, 96, "high"])
def test_jpeg_has_qualities_from_1_to_95(quality: object) -> None:
    with pytest.raises(ValidationError, match="quality"):
        Jpeg.model_validate({"quality": quality})


def test_weights_are_numbers() -> None:
    assert Brightness().weight == 1
    with pytest.raises(ValidationError, match="weight"):
        Brightness(weight=math.nan)
