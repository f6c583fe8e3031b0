"""Loading a pipeline: safetensors only, no code of its own, and one sentence where it fails."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers import pipelines as pipeline_modules
from transformers import PreTrainedModel

from dno.plugin import ConfigError, first_line, hearing

from .call import check_class, pipeline_class
from .folder import INDEX, check_folder, check_index, weighty_parts
from .hub import HubFile, asking, check_hub, fetch, list_files, snapshot
from .modules import wide_dtype
from .reading import read_json
from .single_file import load_single_file
from .vae import load_vae
from .variants import choose, variants
from .where import Where, find

_DECODERS = ("movq", "vqgan")
"""What pipelines call a decoder that they do not call `vae`."""

LIBRARIES = ("diffusers", "transformers")
"""Where a pipeline's parts may come from, besides diffusers' own modules of pipelines."""

_CONFIGS = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)
"""Files in which a part of transformers names code of its own."""

_log = logging.getLogger("dno")


@dataclass(frozen=True)
class Choice:
    """What was chosen of a model, besides its name; see `DiffusersConfig`."""

    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    vae: str | None = None


def load_pipeline(
    model: str,
    *,
    dtype: torch.dtype,
    classes: Sequence[str] | None = None,
    choice: Choice = Choice(),
) -> Any:
    """The pipeline of a folder, a single file or the hub, on the CPU, without its safety checker.

    What a hub repository lacks here is downloaded; `HF_HUB_OFFLINE=1` forbids that.

    Args:
        model: a folder, a file, an installed model's name or a hub id.
        dtype: of all weights but the decoders', which are loaded in `wide_dtype` of it.
        classes: names of the pipeline classes that will do; None: any text-to-image pipeline of
            diffusers.
        choice: what else was chosen.

    Raises:
        ConfigError: it cannot be loaded, or is not such a pipeline.
    """
    with hearing() as heard:
        try:
            pipe = _loaded(find(model, choice.revision), dtype, classes, choice)
        except ConfigError as error:
            raise error if error.at else error.inside("model") from None
        # Loading reaches four libraries, each with errors of its own.
        except Exception as error:
            raise ConfigError(
                f'"{model}" cannot be loaded: {first_line(error)}', at="model"
            ) from error

    for line in heard:
        _check_not_random(model, line)
        _log.warning("%s: %s", model, line)
    return pipe


def _check_not_random(model: str, line: str) -> None:
    """Raise `ConfigError` where a library put random numbers in place of weights."""
    if "newly initialized" in line or "MISSING" in line:
        raise ConfigError(
            f'"{model}" lacks some of its weights, which would be random: {line}', at="model"
        )


def _loaded(where: Where, dtype: torch.dtype, classes: Sequence[str] | None, choice: Choice) -> Any:
    folder, file = where.folder, where.file
    variant = choice.variant
    if where.hub is not None:
        if where.hub.name is not None:
            file = fetch(where.hub)
        else:
            folder = _downloaded(where.hub, classes, variant)

    if file is not None:
        pipe = load_single_file(file, config=choice.config, dtype=dtype, classes=classes)
    else:
        assert folder is not None
        variant = check_folder(folder, classes, variant)
        pipe = _from_folder(folder, dtype, variant, installed=where.installed)

    if choice.vae is not None:
        load_vae(pipe, choice.vae, wide_dtype(dtype))
    return pipe


def _downloaded(file: HubFile, classes: Sequence[str] | None, variant: str | None) -> Path:
    """The folder of a hub repository, whole."""
    here = snapshot(file.repo, file.revision)
    if here is not None and (here / INDEX).is_file():
        try:
            check_folder(here, classes, variant)
        # An interrupted download goes on.
        except ConfigError:
            check_hub(file.repo)
        else:
            return here

    index = read_json(fetch(HubFile(file.repo, INDEX, file.revision)))
    check_index(index, file.repo, classes)
    found = {part: set[str]() for part in weighty_parts(index)}
    for name in list_files(file):
        part, _, rest = name.partition("/")
        if part in found:
            found[part] |= variants([rest])
    with asking(file.repo):
        return Path(
            DiffusionPipeline.download(
                file.repo,
                revision=file.revision,
                variant=choose(found, variant, file.repo),
                use_safetensors=True,
                trust_remote_code=False,
            )
        )


def _from_folder(folder: Path, dtype: torch.dtype, variant: str | None, *, installed: bool) -> Any:
    index = read_json(folder / INDEX)
    check_class(pipeline_class(index["_class_name"]))
    check_parts(index, folder, installed=installed)

    dtypes = {"default": dtype}
    for name in index:
        if is_decoder(name):
            dtypes[name] = wide_dtype(dtype)

    # Only pipelines that may have one take the argument.
    left_out: dict[str, None] = {}
    if "safety_checker" in index:
        left_out["safety_checker"] = None
    return DiffusionPipeline.from_pretrained(
        str(folder),
        variant=variant,
        use_safetensors=True,
        trust_remote_code=False,
        torch_dtype=dtypes,
        **left_out,
    )


def is_decoder(name: str) -> bool:
    """Whether a pipeline calls its decoder so."""
    return "vae" in name or name in _DECODERS


def check_parts(index: Mapping[str, Any], folder: Path, *, installed: bool) -> None:
    """Raise `ConfigError` unless every part is of a class that may be loaded.

    Those are the libraries' own, and what this process has imported. diffusers would import any
    module that an index names, and importing a module runs it; the modules of a folder that an
    installed distribution brought, in its own package, are imported here.
    """
    for name, part in index.items():
        if not isinstance(part, (list, tuple)) or len(part) != 2 or name == "safety_checker":
            continue
        module, cls = part
        if not isinstance(module, str) or not isinstance(cls, str):
            continue

        is_known = module in LIBRARIES or hasattr(pipeline_modules, module)
        if is_known and not _brings_code(folder / name, cls):
            continue
        if installed and _is_inside(folder, module):
            importlib.import_module(module)
        elif is_known or not _is_imported(module, cls):
            raise ConfigError(
                f"its part {name} is of a class of its own ({module}.{cls}), and code that comes "
                "with a model is not run; in Python, import that class yourself, or load the "
                "pipeline and pass it as the model",
                at="model",
            )


def _brings_code(part: Path, cls: str) -> bool:
    """Whether a part asks one of transformers' automatic classes to run code beside it."""
    if not cls.startswith("Auto"):
        return False
    return any("auto_map" in read_json(part / file) for file in _CONFIGS)


def _is_inside(folder: Path, module: str) -> bool:
    """Whether a folder lies in the package that a module is in."""
    package = module.partition(".")[0]
    spec = importlib.util.find_spec(package)
    if spec is None:
        return False

    above = folder.resolve().parents
    homes = spec.submodule_search_locations or ()
    return any(Path(home).resolve() in above for home in homes)


def _is_imported(module: str, cls: str) -> bool:
    """Whether this process has imported the class of a model or scheduler."""
    found = getattr(sys.modules.get(module), cls, None)
    return isinstance(found, type) and issubclass(
        found, (ModelMixin, PreTrainedModel, SchedulerMixin)
    )
