"""Loading a pipeline: safetensors only, silently, and with one sentence where it fails."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline

from dno.plugin import ConfigError
from dno_builtin._quiet import quiet

from .._pipeline import check_class
from .folder import check_index

_DECODERS = ("movq", "vqgan")
"""What pipelines call a decoder that they do not call `vae`."""


def load_pipeline(
    model: str,
    *,
    revision: str | None,
    dtype: torch.dtype,
    vae_dtype: torch.dtype,
    classes: Sequence[str] | None = None,
) -> Any:
    """The pipeline in a folder or hub repository, on the CPU, without its safety checker.

    A hub repository is downloaded unless it is cached; `HF_HUB_OFFLINE=1` forbids downloads.

    Args: model: a folder or hub id. revision: branch, tag or commit of a hub id. dtype: of all
        weights but the decoder's. vae_dtype: of the decoder's, under whichever of its names.
        classes: names of the pipeline classes that will do; None: any text-to-image pipeline of
        diffusers.

    Raises:
        ConfigError: it cannot be loaded, or is no such pipeline.
    """
    with quiet():
        try:
            index = DiffusionPipeline.load_config(model, revision=revision)
            check_index(index, model, classes)
            check_class(_pipeline_class(index["_class_name"]))
            _import_own_classes(index, model)
            decoders = {name: vae_dtype for name in index if "vae" in name or name in _DECODERS}
            return DiffusionPipeline.from_pretrained(
                model,
                revision=revision,
                use_safetensors=True,
                torch_dtype={**decoders, "default": dtype},
                **({"safety_checker": None} if "safety_checker" in index else {}),
            )
        except ConfigError:
            raise
        # Loading reaches four libraries, each with errors of its own.
        except Exception as error:
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise ConfigError(f'"{model}" cannot be loaded: {reason}', at="model") from error


def _pipeline_class(name: str) -> type:
    found = getattr(diffusers, name, None)
    if not isinstance(found, type):
        raise ConfigError(f"this version of diffusers has no pipeline class {name}", at="model")
    return found


def _import_own_classes(index: Mapping[str, Any], model: str) -> None:
    """Import the modules of a pipeline's own classes, if the pipeline comes inside the package they
    are in.

    diffusers asks for such an import first, since importing a module runs it; a folder that is part
    of an installed package may name that package's modules.
    """
    for part in index.values():
        if (
            not isinstance(part, (list, tuple))
            or not isinstance(part[0], str)
            or "." not in part[0]
        ):
            continue
        spec = importlib.util.find_spec(part[0].partition(".")[0])
        homes = (spec and spec.submodule_search_locations) or ()
        if any(Path(home).resolve() in Path(model).resolve().parents for home in homes):
            importlib.import_module(part[0])
