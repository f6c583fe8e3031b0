"""Environments as users have them, made offline in a second: a distribution that nobody requires is
not there.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def call(
    *command: object, cwd: Path, env: dict[str, str] | None = None, script: str = "", code: int = 0
) -> str:
    """What a command printed, both streams; it has to end with this code."""
    words = [str(word) for word in command]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(
        words, cwd=cwd, env=env, input=script, timeout=300, check=False, **streams
    )
    assert done.returncode == code, f"{' '.join(words)}: {done.returncode}\n{done.stdout}"
    return done.stdout


def build(project: Path, out: Path) -> Path:
    """The wheel of a project; nothing is written beside its files."""
    wheel = call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out, cwd=project)
    return Path(wheel.split()[-1])


@dataclass(frozen=True)
class Place:
    """A virtual environment."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site(self) -> Path:
        (site,) = self.folder.glob("lib/python*/site-packages")
        return site

    def run(self, *command: object, cwd: Path, script: str = "", code: int = 0) -> str:
        """What a command prints that runs here, with `dno` and `python` those of this
        environment.
        """
        env = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("PYTHON", "PIP_"))
        }
        env |= {
            "PATH": f"{self.python.parent}{os.pathsep}{env['PATH']}",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PYTHONNOUSERSITE": "1",
        }
        return call(*command, cwd=cwd, env=env, script=script, code=code)

    def pip(self, *command: object, cwd: Path) -> str:
        """What the running environment's pip prints as it acts on this one, which has none unless
        it was asked for.
        """
        return call(sys.executable, "-m", "pip", "--python", self.python, *command, cwd=cwd)


def make_place(folder: Path, wheels: Iterable[Path], tools: Iterable[str] = ()) -> Place:
    """Install wheels into a new environment, with what they require and these tools linked from the
    running one.
    """
    call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=ROOT)
    place = Place(folder)
    place.pip("install", "--no-deps", "--no-index", "--no-compile", *wheels, cwd=folder)
    installed = {
        canonicalize_name(dist.name): dist for dist in distributions(path=[str(place.site)])
    }
    wanted: dict[str, Distribution] = {}
    seen = set(installed)
    for dist in installed.values():
        _require(dist, "", wanted, seen)
    for tool in tools:
        _add(Requirement(tool), wanted, seen)
    _link(wanted, place.site)
    for tool in tools:
        for script in distribution(tool).entry_points.select(group="console_scripts", name=tool):
            # A build backend that pip would look for in an index is linked here.
            extra = ["--no-build-isolation"] if tool == "pip" else []
            path = place.python.with_name(tool)
            path.write_text(
                f"#!{place.python}\nimport sys\nfrom {script.module} import {script.attr}\n"
                f"sys.argv[2:2] = {extra}\nsys.exit({script.attr}())\n"
            )
            path.chmod(0o755)
    return place


def link_required(
    names: Iterable[str], site: Path, without: Iterable[str] = ()
) -> dict[str, Distribution]:
    """Link distributions and all that they require from the running environment into a folder.

    Args:
        names: the distributions.
        site: the folder.
        without: those of them that are not linked themselves.

    Returns:
        What was linked, by name.
    """
    wanted: dict[str, Distribution] = {}
    seen: set[str] = set()
    for name in names:
        _add(Requirement(name), wanted, seen)
    for name in without:
        del wanted[name]
    _link(wanted, site)
    return wanted


def _require(
    dist: Distribution, extra: str, wanted: dict[str, Distribution], seen: set[str]
) -> None:
    for text in dist.requires or ():
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": extra}):
            _add(needed, wanted, seen)


def _add(needed: Requirement, wanted: dict[str, Distribution], seen: set[str]) -> None:
    """A requirement and what it requires; `seen` has what is there or on its way, extras as
    `name[extra]`.
    """
    name = canonicalize_name(needed.name)
    for extra in ("", *needed.extras):
        key = f"{name}[{extra}]" if extra else name
        if key not in seen:
            seen.add(key)
            dist = wanted.setdefault(name, distribution(name))
            _require(dist, extra, wanted, seen)


Parts = tuple[str, ...]


def _files(dist: Distribution) -> Iterator[Parts]:
    for path, *_ in csv.reader((dist.read_text("RECORD") or "").splitlines()):
        if not path.startswith(("..", "/")):
            yield tuple(path.split("/"))


@cache
def _claims() -> dict[Parts, set[str]]:
    """Who has something at or under a path, for every installed distribution."""
    claims = defaultdict(set)
    for dist in distributions():
        name = canonicalize_name(dist.name)
        for parts in _files(dist):
            for depth in range(1, len(parts) + 1):
                claims[parts[:depth]].add(name)
    return claims


def _link(wanted: dict[str, Distribution], site: Path) -> None:
    """Link the files of distributions, a folder as a whole where it holds nobody else's."""
    claims, done = _claims(), set()
    for dist in wanted.values():
        for parts in _files(dist):
            depth = next(d for d in range(1, len(parts) + 1) if claims[parts[:d]] <= wanted.keys())
            if (path := parts[:depth]) not in done:
                done.add(path)
                site.joinpath(*path).parent.mkdir(parents=True, exist_ok=True)
                site.joinpath(*path).symlink_to(dist.locate_file("/".join(path)))
