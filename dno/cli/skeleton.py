"""The first files of a reward plugin, written by `dno plugins new`."""

from __future__ import annotations

import keyword
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Final

TEMPLATES: Final = Path(__file__).with_name("skeleton_files")


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
    names = _Names.of(name)
    folder = out or Path(names.distribution)
    texts = _texts(folder, names)
    _write_all(folder, texts)
    return [folder, *texts]


@dataclass(frozen=True)
class _Names:
    """What the templates leave open."""

    name: str
    distribution: str
    module: str
    cls: str
    key: str
    """The name as a key of a TOML table."""

    @classmethod
    def of(cls, name: str) -> _Names:
        """All names of a plugin that has this one.

        Raises:
            ConfigError: the name, or one made of it, cannot be used.
        """
        from dno.errors import ConfigError

        _check_name(name)
        parts = re.split(r"[._-]", name)
        names = cls(
            name=name,
            distribution=f"dno-{name}",
            module=f"dno_{'_'.join(parts)}",
            cls="".join(part.capitalize() for part in parts),
            key=f'"{name}"' if "." in name else name,
        )

        problem = ""
        if find_spec(names.module) is not None:
            problem = f"would be the module {names.module}, which is installed already"
        elif _is_taken(names.cls):
            problem = f"would be the class {names.cls}, which is taken"
        if problem:
            raise ConfigError(f'"{name}" {problem}; choose another', source="NAME")
        return names


def _check_name(name: str) -> None:
    """Refuse what cannot be the name of a new reward."""
    from dno.errors import ConfigError
    from dno.registry.discovery import NAME
    from dno.registry.registry import REWARDS

    problem = ""
    owners = sorted({info.distribution for info in REWARDS.infos() if info.name == name})
    # No class can have a name that begins with a digit.
    if not NAME.fullmatch(name) or name[0].isdigit():
        problem = (
            "is not a name; it needs a lower case letter first, then letters, digits and single "
            "'-', '_' and '.'"
        )
    elif owners:
        problem = f"is already a reward of {' and '.join(owners)}"
    if problem:
        raise ConfigError(f'"{name}" {problem}; choose another', source="NAME")


def _is_taken(cls: str) -> bool:
    """Whether a class of that name would hide what the templates use."""
    from dno import plugin

    imported = {"Literal", "Sequence", "Tensor"}
    return keyword.iskeyword(cls) or cls in imported or hasattr(plugin, cls)


def _texts(folder: Path, names: _Names) -> Mapping[Path, str]:
    """What to write into each file."""
    test = f"test_{names.module.removeprefix('dno_')}.py"
    templates = {
        folder / "pyproject.toml": "pyproject.toml.txt",
        folder / "README.md": "README.md.txt",
        folder / names.module / "__init__.py": "module.py.txt",
        folder / "tests" / test: "test.py.txt",
    }

    texts = {}
    for path, template in templates.items():
        text = (TEMPLATES / template).read_text(encoding="utf-8")
        texts[path] = Template(text).substitute(asdict(names))
    return texts


def _write_all(folder: Path, texts: Mapping[Path, str]) -> None:
    """Write files into a new folder, or leave nothing behind."""
    from dno.errors import ConfigError

    with ExitStack() as undo:
        try:
            _make_parents(folder, undo)
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
        # All is written, and stays.
        undo.pop_all()


def _make_parents(folder: Path, undo: ExitStack) -> None:
    """Make the folders above that are missing, to be removed again if this fails."""
    for parent in reversed(folder.parents):
        if not parent.exists():
            parent.mkdir()
            undo.callback(_remove_empty, parent)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
