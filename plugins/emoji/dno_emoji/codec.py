"""The embedded model's image codec: linear patches, and a convolutional network that mends them."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn
from torch.nn import functional

_FINE = 2
"""Pixels along one side of what the network reads and writes at one place."""


class EmojiCodec(AutoencoderKL):  # type: ignore[misc]
    """A small autoencoder in the place of `AutoencoderKL`, whose methods and options it takes over.

    Encoding is linear: every `patch x patch` block of an image becomes one latent position with
    `latent_channels` coordinates. Decoding draws a linear picture, block by block, and adds what a
    convolutional network, which sees that picture and the latents, corrects in it. The network was
    trained on noisy latents, so that it takes away the grain and the seams of sampled ones.
    `recipe/codec.py` fits the linear part, `recipe/train_decoder.py` trains the network.

    Both directions are differentiable, work in any float dtype, draw nothing and treat each image
    of a batch by itself.

    Images are `B x 3 x H x W`, in [-1, 1] or a little beyond where they were decoded, with H and W
    multiples of `patch`; latents are `B x latent_channels x H/patch x W/patch`.

    Args:
        latent_channels: coordinates of a block.
        patch: side of a block, in pixels.
        in_channels: colours.
        out_channels: colours.
        scaling_factor: 1, as pipelines divide latents by it.
        shift_factor: None, as pipelines would add it.
        force_upcast: no, as nothing here overflows in half precision.
        sample_size: side of the pictures that it was trained on.
        width: channels of the network at the resolution of the latents.
        detail_width: channels of the network at half the resolution of the image.
        detail_blocks: pairs of convolutions at that resolution.
        block_out_channels: pipelines read the patch from its length, as 2 ** (4 - 1).
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        latent_channels: int = 24,
        patch: int = 8,
        in_channels: int = 3,
        out_channels: int = 3,
        scaling_factor: float = 1.0,
        shift_factor: float | None = None,
        force_upcast: bool = False,
        sample_size: int = 64,
        width: int = 128,
        detail_width: int = 32,
        detail_blocks: int = 3,
        block_out_channels: tuple[int, ...] = (1, 1, 1, 1),
    ) -> None:
        # None of AutoencoderKL's networks. Loading a pipeline also looks for ModelMixin here.
        ModelMixin.__init__(self)
        # Both may be switched on, and change nothing.
        self.use_slicing = False
        self.use_tiling = False

        values = in_channels * patch * patch
        self.mean = nn.Parameter(torch.zeros(values))
        self.analysis = nn.Parameter(torch.zeros(latent_channels, values))
        self.synthesis = nn.Parameter(torch.zeros(values, latent_channels))
        self.bias = nn.Parameter(torch.zeros(values))
        self.correction = Correction(
            latent_channels, patch, out_channels, width, detail_width, detail_blocks
        )

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Latents of images.

        They come as a distribution of zero width, so that callers of `AutoencoderKL` need no
        change.
        """
        patches = functional.pixel_unshuffle(x, self.config.patch).permute(0, 2, 3, 1)
        latents = functional.linear(patches - self.mean, self.analysis).permute(0, 3, 1, 2)
        posterior = DiagonalGaussianDistribution(
            torch.cat([latents, torch.full_like(latents, -30.0)], dim=1), deterministic=True
        )
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(
        self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> Any:
        """Images of latents. Nothing is drawn: `generator` is there for the interface."""
        linear = self.decode_linearly(z)
        sample = linear + self.correction(z, linear)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def decode_linearly(self, z: Tensor) -> Tensor:
        """The linear part of the images of latents: each block from its own coordinates."""
        patches = functional.linear(z.permute(0, 2, 3, 1), self.synthesis, self.bias)
        return functional.pixel_shuffle(patches.permute(0, 3, 1, 2), self.config.patch)

    def forward(self, sample: Tensor, return_dict: bool = True) -> Any:
        """Encode and decode."""
        return self.decode(self.encode(sample).latent_dist.mode(), return_dict=return_dict)


class Correction(nn.Module):
    """What is to be added to a linearly decoded image.

    Convolutions among the latents gather what a block's neighbours say; others, at half the image's
    resolution, look at the linear picture with that and draw. There is no normalisation, which
    keeps flat areas flat.
    """

    def __init__(
        self,
        latent_channels: int,
        patch: int,
        out_channels: int,
        width: int,
        detail_width: int,
        detail_blocks: int,
    ) -> None:
        super().__init__()
        # Coarse coordinates of a block vary several times as much as fine ones, which would drown.
        self.scale = nn.Parameter(torch.ones(latent_channels, 1, 1))
        self.gather = _conv(latent_channels, width)
        self.context = nn.ModuleList(_conv(width, width) for _ in range(2))

        spread = patch // _FINE
        self.spread = nn.Sequential(
            nn.Conv2d(width, detail_width * spread**2, 1), nn.PixelShuffle(spread)
        )
        self.look = nn.Sequential(
            nn.PixelUnshuffle(_FINE), _conv(out_channels * _FINE**2, detail_width)
        )
        self.detail = nn.ModuleList(
            nn.Sequential(
                nn.SiLU(),
                _conv(detail_width, detail_width),
                nn.SiLU(),
                _conv(detail_width, detail_width),
            )
            for _ in range(detail_blocks)
        )
        self.draw = nn.Sequential(
            nn.SiLU(), _conv(detail_width, out_channels * _FINE**2), nn.PixelShuffle(_FINE)
        )

    def forward(self, z: Tensor, linear: Tensor) -> Tensor:
        """Corrections `B x 3 x H x W`, each from its own latents and linear picture alone."""
        seen = functional.silu(self.gather(z * self.scale))
        for layer in self.context:
            seen = seen + functional.silu(layer(seen))

        detail = self.spread(seen) + self.look(linear)
        for block in self.detail:
            detail = detail + block(detail)

        drawn: Tensor = self.draw(detail)
        return drawn


def _conv(channels: int, width: int) -> nn.Conv2d:
    """A convolution that keeps the size of what it reads."""
    return nn.Conv2d(channels, width, 3, padding=1)
