"""Tiny real models, built offline from the classes that real ones are made of, with random weights.

They draw nothing recognisable, but they load, save and differentiate as their full-size kin do, in
milliseconds. Give the pipelines any prompt in lower-case letters.
"""

from __future__ import annotations

import json
import string
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, DiffusionPipeline

Kind = Literal["sd1", "sd2", "sdxl"]
Prediction = Literal["epsilon", "v_prediction", "sample"]

IMAGE_SIZE = 16
"""Height and width of the pipelines' images, in pixels."""
LATENT_SHAPE = (4, 8, 8)
"""Shape of one sample's latent."""

_TOKENS = 24
_TEXT_WIDTH = 16


def tiny_scheduler(prediction_type: Prediction = "epsilon", **changes: Any) -> DDIMScheduler:
    """Stable Diffusion's noise levels under DDIM.

    Args:
        prediction_type: what the network predicts.
        changes: other `DDIMScheduler` options that differ from Stable Diffusion's.
    """
    from diffusers import DDIMScheduler

    options = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": prediction_type,
    }
    return DDIMScheduler(**(options | changes))


def tiny_stable_diffusion(
    kind: Kind = "sd1", prediction_type: Prediction | None = None, seed: int = 0
) -> DiffusionPipeline:
    """A text-to-image pipeline of the Stable Diffusion family, in float32 on the CPU; about 0.4 MB.

    Args:
        kind: the generation whose shape it has: 1.x, 2.x or XL (two text encoders, size
            conditioning).
        prediction_type: what the network predicts; None: v-prediction for 2.x, noise for the
            others.
        seed: of the random weights; torch's global random state is left as it was.
    """
    import torch
    from diffusers import (
        AutoencoderKL,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )

    scheduler = tiny_scheduler(prediction_type or ("v_prediction" if kind == "sd2" else "epsilon"))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=LATENT_SHAPE[1],
            in_channels=LATENT_SHAPE[0],
            out_channels=LATENT_SHAPE[0],
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            **_UNET_OPTIONS[kind],
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=LATENT_SHAPE[0],
            norm_num_groups=4,
            sample_size=IMAGE_SIZE,
        )
        parts = {"unet": unet, "vae": vae, "scheduler": scheduler, "tokenizer": tiny_tokenizer()}
        parts["text_encoder"] = tiny_text_encoder(projection=False)
        if kind == "sdxl":
            return StableDiffusionXLPipeline(
                **parts,
                tokenizer_2=tiny_tokenizer(),
                text_encoder_2=tiny_text_encoder(projection=True),
                add_watermarker=False,
            )
    return StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


_UNET_OPTIONS: dict[Kind, dict[str, Any]] = {
    "sd1": {"cross_attention_dim": _TEXT_WIDTH, "attention_head_dim": 4},
    "sd2": {
        "cross_attention_dim": _TEXT_WIDTH,
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
    },
    "sdxl": {
        "cross_attention_dim": 2 * _TEXT_WIDTH,
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + _TEXT_WIDTH,
    },
}


def tiny_tokenizer() -> Any:
    """Spells every word letter by letter."""
    from transformers import CLIPTokenizer

    letters = string.ascii_lowercase
    pieces = [
        "<|startoftext|>",
        "<|endoftext|>",
        *letters,
        *(f"{letter}</w>" for letter in letters),
    ]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(
            json.dumps({piece: i for i, piece in enumerate(pieces)})
        )
        Path(folder, "merges.txt").write_text("#version: 0.2\n")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=_TOKENS)


def tiny_text_encoder(*, projection: bool) -> Any:
    """An untrained CLIP text encoder for `tiny_tokenizer`, with or without a projection."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=2 + 2 * 26,
        hidden_size=_TEXT_WIDTH,
        intermediate_size=2 * _TEXT_WIDTH,
        projection_dim=_TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=_TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()
