"""The tests of a reward plugin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from dno.protocols import Reward
from dno.registry.configs import RewardConfig
from dno.registry.registry import REWARDS
from dno.testing.configs import ConfigContract
from dno.testing.differences import TOLERANCE, disagreement


class RewardContract(ConfigContract[RewardConfig]):
    """Subclass it, name it `Test...` and set `config`; a reward that says `differentiable = False`
    skips its gradient.

    The images are smooth random colours; `prompts` gives as many prompts as there are images, and
    `sizes` the heights and widths that are tried.
    """

    registry = REWARDS
    prompts: ClassVar[Sequence[str]] = ("a black cat", "a white duck", "a red frog")
    sizes: ClassVar[Sequence[tuple[int, int]]] = ((32, 32), (48, 40))
    tolerance: ClassVar[float] = 1e-4
    """How far a score may move with the batch it is computed in, as a share of the scores' size."""
    repeatable: ClassVar[bool] = True
    """False for a reward that the same images have nearly the same score by, within `tolerance`: a
    busy server's."""

    def images(self, size: tuple[int, int] | None = None) -> Tensor:
        """One image a prompt, `B x 3 x H x W` in (0.1, 0.9), float32."""
        height, width = size or self.sizes[0]
        generator = torch.Generator().manual_seed(height * width)
        coarse = torch.rand(len(self.prompts), 3, 5, 5, generator=generator)
        fine = torch.rand(len(self.prompts), 3, height, width, generator=generator)
        smooth = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)
        return (0.1 + 0.7 * smooth + 0.1 * fine).to(self.device)

    def reward(self) -> Reward:
        """The reward under test, built anew; whatever it is asked, what it answers has to be
        scores.
        """
        built = self.config.build(self.context())
        assert callable(built), (
            f"`build` returns {built!r}, which cannot be called; is a `return` missing?"
        )

        def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
            value = built(images, prompts)
            _require_scores(value, images)
            return value

        return reward

    def plain(self) -> Tensor:
        """A black, a grey and a white image, where roots and quotients have their singularities."""
        height, width = self.sizes[0]
        return (
            torch.tensor([0.0, 0.5, 1.0])
            .view(3, 1, 1, 1)
            .expand(3, 3, height, width)
            .contiguous()
            .to(self.device)
        )

    def test_one_finite_float_an_image(self) -> None:
        """`B` finite floats in single precision or better, on the images' device: any number and
        size, and black, grey and white images too.
        """
        reward = self.reward()
        for size in self.sizes:
            for count in {1, len(self.prompts)}:
                reward(self.images(size)[:count], list(self.prompts[:count]))
        reward(self.plain(), [self.prompts[0]] * 3)

    def test_an_image_is_judged_by_itself(self) -> None:
        """Score i comes from image i and prompt i alone: not from the batch, nor from the order."""
        reward, images, prompts = self.reward(), self.images(), list(self.prompts)
        with torch.no_grad():
            together = reward(images, prompts)
            alone = torch.cat(
                [reward(images[i : i + 1], [prompts[i]]) for i in range(len(prompts))]
            )
            turned = reward(images.flip(0), prompts[::-1]).flip(0)
        self._require_same(
            alone,
            together,
            "an image alone, with its own prompt, has another score than in a batch",
        )
        self._require_same(
            turned, together, "an image has another score when the batch is in another order"
        )

    def _require_same(self, found: Tensor, expected: Tensor, problem: str) -> None:
        unit = max(float(expected.abs().max()), 1e-12)
        apart = float((found - expected).abs().max()) / unit
        assert apart <= self.tolerance, f"{problem}: {found.tolist()} and {expected.tolist()}"

    def test_the_same_images_have_the_same_scores(self) -> None:
        """No randomness, global or its own; nothing kept between calls or builds that changes an
        answer.
        """
        reward, images, prompts = self.reward(), self.images(), list(self.prompts)
        torch.manual_seed(0)
        torch.rand(1)  # so that a reward that seeds by 0 itself is seen to
        state = torch.random.get_rng_state()
        with torch.no_grad():
            first = reward(images, prompts)
            assert torch.equal(state, torch.random.get_rng_state()), (
                "the reward changes torch's global random state"
            )
            reward(images.flip(0), prompts)
            torch.manual_seed(1)
            again, rebuilt = reward(images, prompts), self.reward()(images, prompts)
        for other, how in ((again, "asked"), (rebuilt, "built")):
            problem = f"{how} twice, the reward does not answer the same"
            assert torch.equal(first, other) or not self.repeatable, (
                f"{problem}: {first.tolist()} and {other.tolist()}"
            )
            self._require_same(other, first, problem)

    def test_images_and_prompts_are_left_as_they_were(self) -> None:
        """The images are the sampler's, and are saved and shown after they were scored."""
        images, prompts = self.images(), list(self.prompts)
        before = images.clone()
        self.reward()(images, prompts)
        assert torch.equal(images, before), (
            "the reward changes the images that it is given; work on a copy"
        )
        assert prompts == list(self.prompts), (
            "the reward changes the prompts that it is given; work on a copy"
        )

    def test_its_weights_are_frozen(self) -> None:
        """A gradient is for the images alone; one for the weights would cost memory at every
        call.
        """
        value = self.reward()(self.images(), list(self.prompts))
        assert not value.requires_grad, (
            "the score has a gradient where the images have none; freeze the weights"
        )

    def test_a_gradient_reaches_the_pixels(self) -> None:
        """Where it is differentiable: of image i from score i alone, finite, and not zero
        everywhere.
        """
        reward, images, prompts = self._differentiable(), self.images(), list(self.prompts)
        grad = self._gradient(reward, images, prompts)
        assert grad.isfinite().all(), "the gradient is not finite"
        assert grad.abs().sum() > 0, (
            "the gradient is zero in every pixel; compute the score from the images themselves, "
            "or override `images` "
            "with some that it is not level at"
        )
        images.requires_grad_(True)
        value = reward(images, prompts)
        (first,) = torch.autograd.grad(value[0], images)
        assert not first[1:].any(), "score 0 has a gradient in other images than image 0"
        with torch.no_grad():
            self._require_same(
                value.detach(),
                reward(images.detach(), prompts),
                "with a gradient the scores are others",
            )
        plain = self._gradient(reward, self.plain(), [self.prompts[0]] * 3)
        assert plain.isfinite().all(), "the gradient is not finite for black, grey and white images"

    def test_the_gradient_agrees_with_finite_differences(self) -> None:
        """Where it is differentiable: within 3 %, along the gradient and elsewhere."""
        reward, images, prompts = self._differentiable(), self.images(), list(self.prompts)
        grad = self._gradient(reward, images, prompts)
        apart = disagreement(lambda moved: reward(moved, prompts), images, grad)
        # Of most images: a score with kinks, such as a median, may have one within reach of the
        # smallest step.
        assert apart.median() <= TOLERANCE, (
            f"the gradient is off from finite differences by {apart.median():.0%}; "
            "look for .detach(), rounding or in-place operations"
        )

    def _differentiable(self) -> Reward:
        if not self.config.differentiable:
            pytest.skip(
                "the reward says differentiable = False, so its ascent is estimated and there is "
                "no gradient to check"
            )
        return self.reward()

    def _gradient(self, reward: Reward, images: Tensor, prompts: list[str]) -> Tensor:
        images = images.clone().requires_grad_(True)
        value = reward(images, prompts)
        assert value.requires_grad, (
            "the score is cut off from the images; compute it with torch operations, or say "
            "differentiable = False"
        )
        (grad,) = torch.autograd.grad(value.sum(), images, allow_unused=True)
        assert grad is not None, (
            "the score has a gradient, but none in the images; compute it from the images"
        )
        return grad


def _require_scores(value: object, images: Tensor) -> None:
    flat = bool((images.detach().amax(dim=(1, 2, 3)) == images.detach().amin(dim=(1, 2, 3))).all())
    what = (
        "black, grey and white images"
        if flat
        else f"{len(images)} images of {images.shape[2]} x {images.shape[3]}"
    )
    assert isinstance(value, Tensor), (
        f"for {what} the reward returns {type(value).__name__}, not a tensor"
    )
    assert value.shape == (len(images),), (
        f"for {what} the reward returns shape {tuple(value.shape)}; it should be ({len(images)},)"
    )
    assert value.dtype in (torch.float32, torch.float64), (
        f"the reward returns {value.dtype}; compute in what you like, and return float32"
    )
    assert value.device == images.device, f"images on {images.device} have scores on {value.device}"
    assert value.isfinite().all(), f"for {what} the reward is not finite: {value.tolist()}"
