"""The embedded model's image codec: 4 x 4 patches along their principal components."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch.nn import functional


class PatchCodec(AutoencoderKL):  # type: ignore[misc]
    """A linear autoencoder in the place of `AutoencoderKL`, whose methods and options it takes over.

    Every `patch x patch` block of an image becomes one latent position with `latent_channels` coordinates: its
    components along the leading principal directions of the training pictures, scaled. Both directions are linear,
    differentiable and work in any float dtype. `recipe/codec.py` fits the weights.

    Images are `B x 3 x H x W` in [-1, 1], with H and W multiples of `patch`; latents are
    `B x latent_channels x H/patch x W/patch`.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        latent_channels: int = 24,
        patch: int = 4,
        in_channels: int = 3,
        out_channels: int = 3,
        scaling_factor: float = 1.0,
        shift_factor: float | None = None,
        force_upcast: bool = False,
        sample_size: int = 32,
        block_out_channels: tuple[int, ...] = (1, 1, 1),  # pipelines read the patch size from its length: 2 ** (3 - 1)
    ) -> None:
        # None of AutoencoderKL's networks. Loading a pipeline also looks for the name ModelMixin in this module.
        ModelMixin.__init__(self)
        self.use_slicing = self.use_tiling = False  # may be switched on; a patch is its own tile already
        values = in_channels * patch * patch
        self.analysis = torch.nn.Parameter(torch.zeros(latent_channels, values))
        self.synthesis = torch.nn.Parameter(torch.zeros(values, latent_channels))
        self.mean = torch.nn.Parameter(torch.zeros(values))

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        """Latents of images, as a distribution of zero width so that callers of `AutoencoderKL` need no change."""
        patches = functional.pixel_unshuffle(x, self.config.patch).permute(0, 2, 3, 1)
        latents = functional.linear(patches - self.mean, self.analysis).permute(0, 3, 1, 2)
        posterior = DiagonalGaussianDistribution(
            torch.cat([latents, torch.full_like(latents, -30.0)], dim=1), deterministic=True
        )
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: torch.Tensor, return_dict: bool = True, generator: torch.Generator | None = None) -> Any:
        """Images of latents. Nothing is drawn: `generator` is there for the interface."""
        patches = functional.linear(z.permute(0, 2, 3, 1), self.synthesis, self.mean).permute(0, 3, 1, 2)
        sample = functional.pixel_shuffle(patches, self.config.patch)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(self, sample: torch.Tensor, return_dict: bool = True) -> Any:
        """Encode and decode."""
        return self.decode(self.encode(sample).latent_dist.mode(), return_dict=return_dict)
