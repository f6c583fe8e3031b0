"""A whole model in one .safetensors file, as the authors of models and many sites give it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from diffusers.loaders import single_file_utils

from dno.plugin import ConfigError
from dno_builtin._sniff import Header, check_suffix, read_header

from .call import check_class, pipeline_class
from .checkpoint import check_checkpoint
from .folder import INDEX, check_index, weighty_parts
from .hub import HubFile, check_hub, fetch_folder, hub_file, snapshot
from .modules import wide_dtype
from .reading import read_json
from .variants import check_part, choose, variants
from .where import pipeline_folder

_VAES = ("first_stage_model.", "vae.")
_ENCODERS = ("cond_stage_model.", "conditioner.", "text_encoders.")
"""What the names of a decoder and of text encoders start with in a single file."""

CONFIG_FILES = ("*.json", "*/*.json", "*/*.txt", "*/*.model")
"""Files of a repository that tell how its parts are built, without their weights."""


def load_single_file(
    file: Path, *, config: str | None, dtype: torch.dtype, classes: Sequence[str] | None
) -> Any:
    """The pipeline whose weights a single file holds.

    Args:
        file: a checkpoint.
        config: a folder or hub id of a pipeline that is built alike; None: that which diffusers
            knows the checkpoint's kind by, on the hub.
        dtype: of all weights but the decoder's, which is loaded in `wide_dtype` of it.
        classes: names of the pipeline classes that will do; None: any.

    Raises:
        ConfigError: it holds no such checkpoint, or what tells how it is built is not here.
    """
    check_suffix(file)
    header = read_header(file)
    check_checkpoint(header, file)
    folder = _config_folder(file, header, config)

    index = read_json(folder / INDEX)
    check_index(index, f"{file} (by {INDEX} of {folder})", classes)
    cls = pipeline_class(index["_class_name"])
    check_class(cls)
    if not hasattr(cls, "from_single_file"):
        raise ConfigError(f"a {cls.__name__} cannot be loaded from a single file", at="model")

    given: dict[str, Any] = {"config": str(folder), "local_files_only": True}
    if "safety_checker" in index:
        given["safety_checker"] = None
    for part in weighty_parts(index):
        if part == "vae" and _holds(header, _VAES):
            given[part] = _vae(file, index, folder, wide_dtype(dtype))
        elif part == "vae":
            given[part] = _from_folder(file, index, folder, part, wide_dtype(dtype))
        elif part.startswith("text_encoder") and not _holds(header, _ENCODERS):
            given[part] = _from_folder(file, index, folder, part, dtype)

    while True:
        try:
            return cls.from_single_file(str(file), torch_dtype=dtype, **given)
        # Of several text encoders, a file may hold some.
        except single_file_utils.SingleFileComponentError as error:
            named = re.search(r"(\w+) = \w+\.from_pretrained", str(error))
            if named is None or named[1] in given:
                raise
            given[named[1]] = _from_folder(file, index, folder, named[1], dtype)


def _holds(header: Header, starts: tuple[str, ...]) -> bool:
    return any(name.startswith(starts) for name in header.shapes)


def _from_folder(
    file: Path, index: Mapping[str, Any], folder: Path, part: str, dtype: torch.dtype
) -> Any:
    """A part that a checkpoint does not hold, from the folder that tells how it is built."""
    library, name = index[part]
    there = folder / part
    found = variants([path.name for path in there.iterdir()]) if there.is_dir() else set()
    if not found or library not in ("diffusers", "transformers"):
        raise ConfigError(
            f"{file} holds no {part}, and {folder} has no weights of one; name a folder of a whole "
            "pipeline of this kind by sampler.config",
            at="model",
        )
    variant = choose({part: found}, None, str(folder))
    check_part(there, variant)

    options: dict[str, Any] = {"torch_dtype": dtype}
    cls: Any = pipeline_class(name) if library == "diffusers" else getattr(transformers, name)
    if library == "transformers":
        options["trust_remote_code"] = False
    return cls.from_pretrained(str(there), variant=variant, use_safetensors=True, **options)


def _vae(file: Path, index: Mapping[str, Any], folder: Path, dtype: torch.dtype) -> Any:
    cls = pipeline_class(index["vae"][1])
    return cls.from_single_file(
        str(file), config=str(folder), subfolder="vae", torch_dtype=dtype, local_files_only=True
    )


def _config_folder(file: Path, header: Header, config: str | None) -> Path:
    """The folder that tells how the pipeline of a checkpoint is built."""
    if config is not None:
        return config_folder(config)

    repo = _repository(header)
    here = snapshot(repo)
    if here is not None and (here / INDEX).is_file():
        return here
    try:
        check_hub(repo)
    except ConfigError:
        patterns = " ".join(f'"{pattern}"' for pattern in CONFIG_FILES)
        raise ConfigError(
            f'{file} does not say how it is built; its kind is that of "{repo}", which is neither '
            f"on this machine nor in reach: name a folder of such a pipeline by sampler.config, or "
            f"once do: hf download {repo} --include {patterns}",
            at="model",
        ) from None
    return fetch_folder(repo, None, CONFIG_FILES)


def config_folder(config: str) -> Path:
    """The folder of a pipeline that was named to tell how another is built."""
    try:
        folder = Path(config).expanduser()
        if folder.is_dir():
            folder = pipeline_folder(folder)
        else:
            on_hub = hub_file(config)
            if on_hub is None:
                raise ConfigError(f"there is no folder {folder}")
            folder = _from_hub(on_hub)
    except ConfigError as error:
        raise error.inside("config") from None
    if not (folder / INDEX).is_file():
        raise ConfigError(f"{folder} holds no diffusers pipeline: no {INDEX}", at="config")
    return folder


def _from_hub(file: HubFile) -> Path:
    here = snapshot(file.repo, file.revision)
    if here is not None and (here / INDEX).is_file():
        return here
    return fetch_folder(file.repo, file.revision, CONFIG_FILES)


def _repository(header: Header) -> str:
    """The hub id of the pipeline that a checkpoint's kind is known by."""
    # diffusers looks at names and shapes alone.
    shapes = {
        name: SimpleNamespace(shape=torch.Size(shape), ndim=len(shape))
        for name, shape in header.shapes.items()
    }
    found = single_file_utils.fetch_diffusers_config(shapes)
    return str(found["pretrained_model_name_or_path"])
