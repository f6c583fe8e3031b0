"""Where the model is that a user named: a folder, a checkpoint in one file, or on the hub."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from dno.plugin import ConfigError, find_model, installed_model
from dno_builtin._sniff import check_suffix

from .folder import INDEX, MODULAR
from .hub import HubFile, cached, hub_file, newest_snapshot


@dataclass(frozen=True)
class Where:
    """A model's place. Exactly one of the three is given."""

    folder: Path | None = None
    """A folder with a pipeline."""
    file: Path | None = None
    """A checkpoint in one file."""
    hub: HubFile | None = None
    """What has yet to be downloaded, in part at least."""
    installed: bool = False
    """Whether an installed distribution brought the folder, and so may bring code."""


def find(model: str, revision: str | None = None) -> Where:
    """Where a model is.

    Args:
        model: an installed model's name, a folder, a file, a hub id, a file's address on the hub.
        revision: branch, tag or commit on the hub, where the name tells none.

    Raises:
        ConfigError: there is none of that name.
    """
    brought = installed_model(model)
    if brought is not None:
        if not brought.is_dir():
            raise ConfigError(f'the weights of "{model}" are missing: there is no folder {brought}')
        return Where(folder=brought, installed=True)

    path = _path(model)
    if path is not None and path.is_dir():
        return Where(folder=pipeline_folder(path, revision))
    if path is not None and path.is_file():
        check_suffix(path, "")
        return Where(file=path)

    on_hub = hub_file(model)
    if on_hub is not None:
        return _on_hub(replace(on_hub, revision=on_hub.revision or revision))
    if path is not None and path.suffix in (".safetensors", ".ckpt"):
        raise ConfigError(f"there is no file {path}")
    # It says what there is.
    return Where(folder=Path(find_model(model)))


def _path(model: str) -> Path | None:
    if "://" in model:
        return None
    try:
        path = Path(model).expanduser()
        path.exists()
    # Names too long, unknown users.
    except (OSError, RuntimeError, ValueError):
        return None
    return path


def _on_hub(file: HubFile) -> Where:
    if file.name is not None:
        check_suffix(Path(file.name), "")
        here = cached(file)
        return Where(file=here) if here is not None else Where(hub=file)
    return Where(hub=file)


def pipeline_folder(folder: Path, revision: str | None = None) -> Path:
    """The folder that holds a pipeline: itself, or a snapshot in it, as the hub's cache has them.

    Raises:
        ConfigError: it is a folder of that cache without such a snapshot.
    """
    if (folder / INDEX).is_file() or (folder / MODULAR).is_file():
        return folder
    if (folder / "snapshots").is_dir():
        found = newest_snapshot(folder, revision)
        if found is None:
            raise ConfigError(
                f"{folder} is a folder of the hub's cache without a snapshot of its main branch; "
                "name one of those in its folder `snapshots`"
            )
        return found
    return folder
