"""A scalar of images, and its gradient by the noise, for tests that compare samplers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def weigh(images: Tensor) -> Tensor:
    """A fixed scalar of the images to which every pixel adds its own share."""
    weights = torch.linspace(-1, 1, images[0].numel(), dtype=images.dtype).reshape(images[0].shape)
    return (images * weights + images**2 / 2).sum()


def slope(bound: Any) -> tuple[Tensor, Tensor]:
    """The images where the seeds start, and the gradient of their `weigh`."""
    noise_BN = bound.noise_BN.clone().requires_grad_()
    images = bound(noise_BN)
    return images.detach(), torch.autograd.grad(weigh(images), noise_BN)[0]
