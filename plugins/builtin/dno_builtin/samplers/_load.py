"""Loading a pipeline: safetensors only, silently, and with one sentence where it fails."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from dno.plugin import ConfigError
from dno_builtin._quiet import quiet

from ._folder import check_index


def load_pipeline(model: str, *, revision: str | None, dtype: torch.dtype, vae_dtype: torch.dtype) -> Any:
    """The pipeline in a folder or hub repository, on the CPU, without its safety checker.

    A hub repository is downloaded unless it is cached; `HF_HUB_OFFLINE=1` forbids downloads.

    Raises:
        ConfigError: it cannot be loaded, or is not a pipeline that `ddim` samples.
    """
    with quiet():
        try:
            index = DiffusionPipeline.load_config(model, revision=revision)
            check_index(index, model)
            _import_own_classes(index, model)
            return DiffusionPipeline.from_pretrained(
                model,
                revision=revision,
                use_safetensors=True,
                torch_dtype={"vae": vae_dtype, "default": dtype},
                **({"safety_checker": None} if "safety_checker" in index else {}),
            )
        except ConfigError:
            raise
        # Loading reaches four libraries, each with errors of its own.
        except Exception as error:
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise ConfigError(f'"{model}" cannot be loaded: {reason}', at="model") from error


def _import_own_classes(index: Mapping[str, Any], model: str) -> None:
    """Import the modules of a pipeline's own classes, if the pipeline comes inside the package they are in.

    diffusers asks for such an import first, since importing a module runs it; a folder that is part of
    an installed package may name that package's modules.
    """
    for part in index.values():
        if not isinstance(part, (list, tuple)) or not isinstance(part[0], str) or "." not in part[0]:
            continue
        spec = importlib.util.find_spec(part[0].partition(".")[0])
        homes = (spec and spec.submodule_search_locations) or ()
        if any(Path(home).resolve() in Path(model).resolve().parents for home in homes):
            importlib.import_module(part[0])
