"""Another decoder in place of a pipeline's own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dno.plugin import ConfigError, first_line
from dno_builtin._sniff import check_suffix, read_header

from .hub import HubFile, check_here, fetch, fetch_folder, hub_file, snapshot
from .reading import read_json
from .variants import check_part, choose, variants
from .where import pipeline_folder

if TYPE_CHECKING:
    import torch

_PART_FILES = ("*.json", "*.safetensors", "vae/*.json", "vae/*.safetensors")


def check_vae(vae: str) -> None:
    """Raise `ConfigError` where a decoder is not on this machine, and cannot be fetched."""
    try:
        found = _find(vae)
        check_here(found)
        if isinstance(found, Path) and found.is_file():
            read_header(found, "")
        elif isinstance(found, Path):
            _check_folder(found)
    except ConfigError as error:
        raise ConfigError(error.problem, at="vae") from None


def load_vae(pipe: Any, vae: str, dtype: torch.dtype) -> None:
    """Put another decoder into a pipeline.

    Args:
        pipe: a pipeline with a `vae`.
        vae: a folder with a decoder, or with a pipeline whose decoder it is; a single file; a hub
            id of one of them.
        dtype: of its weights.

    Raises:
        ConfigError: it cannot be loaded, or does not fit the pipeline.
    """
    own = getattr(pipe, "vae", None)
    if own is None:
        raise ConfigError(f"a {type(pipe).__name__} has no VAE", at="vae")
    try:
        found = _fetched(_find(vae))
        made = _loaded(type(own), found, own, dtype)
    except ConfigError as error:
        raise ConfigError(error.problem, at="vae") from None
    except Exception as error:
        raise ConfigError(
            f'"{vae}" cannot be loaded as a {type(own).__name__}: {first_line(error)}', at="vae"
        ) from error

    for option in ("latent_channels", "block_out_channels"):
        before, after = (_size(part.config, option) for part in (own, made))
        if before != after:
            raise ConfigError(
                f'"{vae}" does not fit the model: its {option} are {after}, the model\'s {before}',
                at="vae",
            )
    pipe.register_modules(vae=made)


def _size(config: Any, option: str) -> Any:
    """What must be the same of two decoders: channels, and how often they enlarge."""
    value = config.get(option)
    return len(value) if isinstance(value, (list, tuple)) else value


def _find(vae: str) -> Path | HubFile:
    path = Path(vae).expanduser()
    if path.is_file():
        check_suffix(path, "")
        return path
    if path.is_dir():
        folder = pipeline_folder(path)
        return folder / "vae" if (folder / "vae").is_dir() else folder
    on_hub = hub_file(vae)
    if on_hub is None:
        raise ConfigError(f"there is no folder or file {path}, and it is no hub id")
    return on_hub


def _fetched(found: Path | HubFile) -> Path:
    if isinstance(found, Path):
        return found
    if found.name is not None:
        return fetch(found)
    folder = snapshot(found.repo, found.revision)
    if folder is None or not any(folder.rglob("*.safetensors")):
        folder = fetch_folder(found.repo, found.revision, _PART_FILES)
    return folder / "vae" if (folder / "vae").is_dir() else folder


def _check_folder(folder: Path) -> str | None:
    """The variant to load from a folder that holds a decoder."""
    if not read_json(folder / "config.json").get("_class_name"):
        raise ConfigError(f"{folder} holds no VAE: its config.json names no class of diffusers")
    found = variants([path.name for path in folder.iterdir()])
    taken = choose({"vae": found}, None, str(folder))
    check_part(folder, taken)
    return taken


def _loaded(cls: Any, found: Path, own: Any, dtype: torch.dtype) -> Any:
    if found.is_dir():
        named = read_json(found / "config.json").get("_class_name")
        variant = _check_folder(found)
        if named != cls.__name__:
            raise ConfigError(f"{found} holds a {named}, and the model needs a {cls.__name__}")
        return cls.from_pretrained(
            str(found), variant=variant, use_safetensors=True, torch_dtype=dtype
        )

    header = read_header(found, "")
    if not any("decoder." in name for name in header.shapes):
        first = next(iter(header.shapes))
        raise ConfigError(f"{found} holds no VAE: its tensors are called such as {first!r}")
    return _single_file(cls, found, own, dtype)


def _single_file(cls: Any, file: Path, own: Any, dtype: torch.dtype) -> Any:
    """A decoder from one file, built as the model's own is."""
    if not hasattr(cls, "from_single_file"):
        raise ConfigError(f"a {cls.__name__} cannot be loaded from a single file")
    with tempfile.TemporaryDirectory() as folder:
        own.save_config(folder)
        return cls.from_single_file(
            str(file), config=folder, torch_dtype=dtype, local_files_only=True
        )
