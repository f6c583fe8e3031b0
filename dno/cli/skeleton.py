"""The first files of a reward plugin, written by `dno plugins new`."""

from __future__ import annotations

import keyword
import re
import shutil
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import NoReturn

from dno import plugin
from dno.errors import ConfigError
from dno.registry.discovery import NAME
from dno.registry.registry import REWARDS


def write_reward(name: str, out: Path | None = None) -> list[Path]:
    """Write a reward plugin that can be installed and tested as it is.

    Args:
        name: what `--reward` will call it.
        out: the folder to make; unless given, `dno-NAME` here.

    Returns:
        The files, all of them in one new folder, whose path comes first.

    Raises:
        ConfigError: the name cannot be used, or the folder cannot be made; then nothing is left
            behind.
    """
    names = _names(name)
    folder = out or Path(names["distribution"])
    module = names["module"]
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{module}/__init__.py": "module.py",
        f"tests/test_{module.removeprefix('dno_')}.py": "test.py",
    }
    templates = Path(__file__).with_name("skeleton_files")
    texts = {
        folder / path: Template(
            (templates / f"{template}.txt").read_text(encoding="utf-8")
        ).substitute(names)
        for path, template in files.items()
    }
    with ExitStack() as undo:
        try:
            for parent in reversed(folder.parents):
                if not parent.exists():
                    parent.mkdir()
                    undo.callback(_remove_empty, parent)
            folder.mkdir()
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            for path, text in texts.items():
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
        except FileExistsError:
            raise ConfigError(
                f"{folder} is there already and stays as it is; name another folder: --out"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be made: {error.strerror}; name another folder: --out"
            ) from error
        undo.pop_all()
    return [folder, *texts]


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _names(name: str) -> dict[str, str]:
    """What the templates leave open."""

    def refuse(problem: str) -> NoReturn:
        raise ConfigError(f'"{name}" {problem}; choose another', source="NAME")

    # No class can have a name that begins with a digit.
    if not NAME.fullmatch(name) or name[0].isdigit():
        refuse(
            "is no name; it needs a lower case letter first, then letters, digits and single "
            "'-', '_' and '.'"
        )
    if owners := sorted({info.distribution for info in REWARDS.infos() if info.name == name}):
        refuse(f"is already a reward of {' and '.join(owners)}")
    parts = re.split(r"[._-]", name)
    module, cls = f"dno_{'_'.join(parts)}", "".join(part.capitalize() for part in parts)
    if find_spec(module) is not None:
        refuse(f"would be the module {module}, which is installed already")
    if keyword.iskeyword(cls) or cls in {"Literal", "Sequence", "Tensor"} or hasattr(plugin, cls):
        refuse(f"would be the class {cls}, which is taken")
    key = f'"{name}"' if "." in name else name
    return {"name": name, "distribution": f"dno-{name}", "module": module, "cls": cls, "key": key}
