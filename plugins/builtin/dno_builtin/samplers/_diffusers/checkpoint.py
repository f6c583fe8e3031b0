"""What a single file of weights holds, told by the names of its tensors: no torch."""

from __future__ import annotations

from pathlib import Path

from dno.plugin import ConfigError
from dno_builtin._sniff import Header

from .lora import is_lora

_NETWORKS = ("model.diffusion_model.", "double_blocks.", "joint_blocks.", "transformer_blocks.")
"""What the names of a denoising network start with in a single file."""


def check_checkpoint(header: Header, file: Path) -> None:
    """Raise `ConfigError` unless a file holds a denoising network."""
    if is_lora(header):
        raise ConfigError(
            f"{file} holds LoRA weights, not a model; name it by --lora, and the model that it is "
            "for by --model",
            at="model",
        )
    if any(name.startswith(_NETWORKS) for name in header.shapes):
        return
    first = next(iter(header.shapes))
    what = "holds one part of a model"
    if any(
        name.startswith(("decoder.", "encoder.", "first_stage_model.")) for name in header.shapes
    ):
        what = "holds a VAE; name it by sampler.vae"
    elif "emb_params" in header.shapes or "clip_l" in header.shapes or len(header.shapes) == 1:
        what = "holds an embedding; name it by --embedding"
    raise ConfigError(
        f"{file} {what}; no whole model has tensors called such as {first!r} alone", at="model"
    )
