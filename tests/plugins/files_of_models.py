"""Tiny models in the forms that people have them: single files, variants, a hub's cache."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}

_UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
"""The tiny UNet's modules, and what Stable Diffusion's authors call them."""

_VAE = (
    (r"(en|de)coder\.mid_block\.resnets\.0", r"\1coder.mid.block_1"),
    (r"(en|de)coder\.mid_block\.resnets\.1", r"\1coder.mid.block_2"),
    (r"(en|de)coder\.mid_block\.attentions\.0", r"\1coder.mid.attn_1"),
    (r"encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2"),
    (r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample"),
    (r"decoder\.up_blocks\.0\.resnets\.(\d)", r"decoder.up.1.block.\1"),
    (r"decoder\.up_blocks\.1\.resnets\.(\d)", r"decoder.up.0.block.\1"),
    (r"decoder\.up_blocks\.0\.upsamplers\.0", r"decoder.up.1.upsample"),
    (r"conv_norm_out", "norm_out"),
    (r"group_norm", "norm"),
    (r"to_([qkv])\.", r"\1."),
    (r"to_out\.0", "proj_out"),
)


def checkpoint(pipe: Any) -> dict[str, Tensor]:
    """A tiny Stable Diffusion 1.x as one file, by the names that its authors gave."""
    state = {}
    for name, weight in pipe.unet.state_dict().items():
        state[f"model.diffusion_model.{_ldm_name(name)}"] = weight
    state |= {f"first_stage_model.{name}": weight for name, weight in vae(pipe).items()}
    for name, weight in pipe.text_encoder.state_dict().items():
        known = name.removeprefix("text_model.")
        state[f"cond_stage_model.transformer.text_model.{known}"] = weight
    return {name: weight.clone().contiguous() for name, weight in state.items()}


def vae(pipe: Any) -> dict[str, Tensor]:
    """A tiny decoder's weights by the names that its authors gave."""
    state = {}
    for name, weight in pipe.vae.state_dict().items():
        known = name
        for pattern, replacement in _VAE:
            known = re.sub(pattern, replacement, known)
        # Its attention was made of convolutions.
        if ".attn_1." in known and weight.ndim == 2:
            weight = weight[:, :, None, None]
        state[known] = weight.clone().contiguous()
    return state


def _ldm_name(name: str) -> str:
    for module, known in _UNET.items():
        if not name.startswith(f"{module}."):
            continue
        rest = name.removeprefix(f"{module}.")
        if "resnets" in module:
            inner, _, end = rest.partition(".")
            rest = f"{_RESNET[inner]}.{end}"
        return f"{known}.{rest}"
    raise ValueError(name)


def cache(folder: Path, hub: Path, repo: str, commit: str = "0" * 40) -> Path:
    """A pipeline's folder as the hub's cache has it after a download; its snapshot."""
    owner, _, name = repo.partition("/")
    home = hub / f"models--{owner}--{name}"
    snapshot = home / "snapshots" / commit
    shutil.copytree(folder, snapshot)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    return snapshot


def same_weights(one: Any, other: Any, parts: Mapping[str, Any] | tuple[str, ...]) -> bool:
    """Whether parts of two pipelines have the same weights, bit for bit."""
    for part in parts:
        left, right = (getattr(pipe, part).state_dict() for pipe in (one, other))
        if left.keys() != right.keys():
            return False
        if not all(left[name].equal(right[name]) for name in left):
            return False
    return True
