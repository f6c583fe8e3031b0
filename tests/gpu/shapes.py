"""Pipelines with the shapes of published ones and random weights, for their time and memory.

Each part is made on the device it is wanted on, so that `torch.device("meta")` gives the shapes
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dno.testing.models import tiny_scheduler, tiny_stable_diffusion, tiny_tokenizer

_TOKENS = 77


def sd15() -> Any:
    """Stable Diffusion 1.5: 860 M parameters in the network, 512 x 512 px."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8, norm_num_groups=32
    )
    return StableDiffusionPipeline(
        unet=unet,
        vae=_decoder(512, 0.18215),
        scheduler=tiny_scheduler(),
        tokenizer=_tokenizer(),
        text_encoder=_text_encoder(768, 12, 12, projection=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> Any:
    """Stable Diffusion XL: 2.6 G parameters in the network, 1024 x 1024 px."""
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return StableDiffusionXLPipeline(
        unet=unet,
        vae=_decoder(1024, 0.13025),
        scheduler=tiny_scheduler(),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        text_encoder=_text_encoder(768, 12, 12, projection=False),
        text_encoder_2=_text_encoder(1280, 32, 20, projection=True),
        add_watermarker=False,
    )


def tiny_sd15() -> Any:
    """Its tiny kin."""
    return tiny_stable_diffusion("sd1")


def tiny_sdxl() -> Any:
    """Its tiny kin."""
    return tiny_stable_diffusion("sdxl")


FULL: dict[str, Callable[[], Any]] = {"sd15": sd15, "sdxl": sdxl}
TINY: dict[str, Callable[[], Any]] = {"sd15": tiny_sd15, "sdxl": tiny_sdxl}


def made_on(make: Callable[[], Any], device: torch.device, dtype: torch.dtype) -> Any:
    """A pipeline, its networks in a dtype and its decoder in float32, made where it is to be."""
    torch.manual_seed(0)
    with torch.device(device):
        pipe = make()
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            # Tiny ones are made on the CPU.
            part.to(device, torch.float32 if name == "vae" else dtype)
    return pipe


def save_configurations(pipe: Any, folder: Path) -> None:
    """A folder that says what the model is, without any weights."""
    pipe.save_config(folder)
    for name, part in pipe.components.items():
        if hasattr(part, "save_config"):
            part.save_config(folder / name)
        elif isinstance(part, torch.nn.Module):
            part.config.save_pretrained(folder / name)
        elif part is not None:
            part.save_pretrained(folder / name)


def _decoder(size: int, scale: float) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=size,
        scaling_factor=scale,
    )


def _tokenizer() -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = _TOKENS
    return tokenizer


def _text_encoder(width: int, layers: int, heads: int, *, projection: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        max_position_embeddings=_TOKENS,
        # Those of the tokenizer.
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()
