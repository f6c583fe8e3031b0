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

from dno.plugin import ConfigError, first_line, quiet

from .call import check_class
from .folder import check_index
from .modules import wide_dtype

_DECODERS = ("movq", "vqgan")
"""What pipelines call a decoder that they do not call `vae`."""


def load_pipeline(
    model: str,
    *,
    revision: str | None,
    dtype: torch.dtype,
    classes: Sequence[str] | None = None,
) -> Any:
    """The pipeline in a folder or hub repository, on the CPU, without its safety checker.

    A hub repository is downloaded unless it is cached; `HF_HUB_OFFLINE=1` forbids downloads.

    Args:
        model: a folder or hub id.
        revision: branch, tag or commit of a hub id.
        dtype: of all weights but the decoders', which are loaded in `wide_dtype` of it.
        classes: names of the pipeline classes that will do; None: any text-to-image pipeline of
            diffusers.

    Raises:
        ConfigError: it cannot be loaded, or is not such a pipeline.
    """
    with quiet():
        try:
            return _loaded(model, revision, dtype, classes)
        except ConfigError:
            raise
        # Loading reaches four libraries, each with errors of its own.
        except Exception as error:
            raise ConfigError(
                f'"{model}" cannot be loaded: {first_line(error)}', at="model"
            ) from error


def _loaded(
    model: str,
    revision: str | None,
    dtype: torch.dtype,
    classes: Sequence[str] | None,
) -> Any:
    index = DiffusionPipeline.load_config(model, revision=revision)
    check_index(index, model, classes)
    check_class(_pipeline_class(index["_class_name"]))
    _import_own_classes(index, model)

    dtypes = {"default": dtype}
    for name in index:
        if "vae" in name or name in _DECODERS:
            dtypes[name] = wide_dtype(dtype)

    # Only pipelines that may have one take the argument.
    left_out: dict[str, None] = {}
    if "safety_checker" in index:
        left_out["safety_checker"] = None
    return DiffusionPipeline.from_pretrained(
        model,
        revision=revision,
        use_safetensors=True,
        torch_dtype=dtypes,
        **left_out,
    )


def _pipeline_class(name: str) -> type:
    found = getattr(diffusers, name, None)
    if not isinstance(found, type):
        raise ConfigError(f"this version of diffusers has no pipeline class {name}", at="model")
    return found


def _import_own_classes(index: Mapping[str, Any], model: str) -> None:
    """Import the modules of a pipeline's own classes, where the pipeline is in their package.

    diffusers asks for such an import first, since importing a module runs it; a folder that is part
    of an installed package may name that package's modules.
    """
    for part in index.values():
        if not isinstance(part, (list, tuple)):
            continue
        module = part[0]
        # Names without a dot are of a library, or of one of diffusers' own modules.
        if isinstance(module, str) and "." in module and _is_inside(model, module):
            importlib.import_module(module)


def _is_inside(model: str, module: str) -> bool:
    """Whether a folder lies in the package that a module is in."""
    package = module.partition(".")[0]
    spec = importlib.util.find_spec(package)
    if spec is None:
        return False

    above = Path(model).resolve().parents
    homes = spec.submodule_search_locations or ()
    return any(Path(home).resolve() in above for home in homes)
