"""uvx and pipx run `dno` without an environment of one's own, as the docs show them.

They install offline: `dno` and its plugins as the wheels that they build, what these require as
wheels that lead to what is installed here.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import sys
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from outside import ROOT, call, link_required
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

CAT = ["a black cat", "--reward", "brightness", "--steps", "5", "--iterations", "1", "--out", "cat"]
BUILDERS = ("hatchling", "editables", "pip", "setuptools", "wheel")
STUDIO = ROOT / "plugins" / "studio"


def tool(name: str) -> Path:
    """A tool beside the running Python, or anywhere."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed here")
    return Path(found)


def leading_to(dist: Distribution, site: Path, out: Path) -> None:
    """Write a wheel of a distribution's name and version that has its files elsewhere."""
    name = canonicalize_name(dist.name).replace("-", "_")
    info = f"{name}-{dist.version}.dist-info"
    files = {
        f"{name}_leads.pth": f"{site}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {dist.name}\nVersion: {dist.version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record += f"{path},sha256={digest.decode()},{len(text)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    with zipfile.ZipFile(out / f"{name}-{dist.version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that `dno` and `dno-studio` require, and what builds them."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    site = folder / "site"
    site.mkdir()
    required = {**link_required(["dno", "gradio", *BUILDERS], site, without=["dno"])}
    assert "torch" in required
    for dist in required.values():
        leading_to(dist, site, folder)
    return folder


def environment(home: Path, wheelhouse: Path) -> dict[str, str]:
    """A home of its own, and no index to ask."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PIP", "UV"))}
    kept.pop("PYTHONPATH", None)
    return {
        **kept,
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheelhouse),
        "PIPX_HOME": str(home / "pipx"),
        "PIPX_BIN_DIR": str(home / "bin"),
        "PIPX_DEFAULT_PYTHON": sys.executable,
        "UV_CACHE_DIR": str(home / "uv"),
        "UV_NO_INDEX": "1",
        "UV_FIND_LINKS": str(wheelhouse),
        "UV_PYTHON": sys.executable,
        "UV_PYTHON_DOWNLOADS": "never",
    }


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The repository as somebody has cloned it."""
    names = call("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "clone" / name)
    return tmp_path / "clone"


def commands(starts: str) -> list[str]:
    """The commands of the docs that start so."""
    page = (ROOT / "docs" / "how-to" / "without-installing.md").read_text()
    found = [line for line in page.splitlines() if line.startswith(starts)]
    assert found
    return found


def typed(lines: Iterable[str], cwd: Path, env: dict[str, str]) -> str:
    return call("bash", "-euo", "pipefail", cwd=cwd, env=env, script="\n".join(lines))


def test_uvx_runs_it_from_a_clone(wheelhouse: Path, clone: Path, tmp_path: Path) -> None:
    env = environment(tmp_path / "home", wheelhouse)
    env["PATH"] = f"{tool('uvx').parent}{os.pathsep}{env['PATH']}"
    cat, page = commands("uvx ")
    typed([cat], clone, env)
    assert (clone / "cat" / "best.png").is_file()
    assert page.endswith(" dno ui")
    assert "--no-auth" in typed([f"{page} --help"], clone, env)


def test_pipx_installs_it_from_a_clone(wheelhouse: Path, clone: Path, tmp_path: Path) -> None:
    env = environment(tmp_path / "home", wheelhouse)
    # What it puts on the path comes before what is there.
    env["PATH"] = os.pathsep.join([env["PIPX_BIN_DIR"], str(tool("pipx").parent), env["PATH"]])
    install, inject = commands("pipx ")
    typed([install, inject], clone, env)
    inside = Path(env["PIPX_HOME"]) / "venvs" / "dno"
    assert list(inside.rglob("dno_studio/command.py"))
    typed([f"dno optimize {' '.join(map(repr, CAT))}"], tmp_path, env)
    assert (tmp_path / "cat" / "best.png").is_file()
    assert "--no-auth" in typed(["dno ui --help"], tmp_path, env)
