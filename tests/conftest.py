"""Settings that every test shares."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch
from browsers import browser
from distributions import Site
from hypothesis import settings
from warm import warm_programs

from dno.registry.registry import REGISTRIES
from dno.testing.models import Kind, tiny_stable_diffusion

if TYPE_CHECKING:
    from preference_models import Models

# More threads than cores makes small operations many times slower, and tests may run side by side.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# `dev` tries other examples at each run; `ci` tries the same ones always, so that what fails there
# failed by the change; `nightly` tries many, and prints how to try a failing one again.
settings.register_profile("dev", max_examples=20, deadline=None)
settings.register_profile("ci", max_examples=20, deadline=None, derandomize=True)
settings.register_profile("nightly", max_examples=500, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

NO_BROWSER = "there is no Chromium here; tests/browser/install.sh installs one on Debian"
BROWSER_FIXTURE = "chromium"
MODEL_FIXTURES = {"pipeline_folders", "tiny_folder", "models"}
SLOW_FILE = re.compile(r"^pytestmark = pytest\.mark\.slow$", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where no slow tests are wanted, a file that is slow as a whole is not even imported.

    The imports of those files, diffusers and transformers, take longer than many tests.
    """
    if "not slow" not in config.option.markexpr or collection_path.suffix != ".py":
        return None
    return bool(SLOW_FILE.search(collection_path.read_text(encoding="utf-8"))) or None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that ask for a model are slow; those for a GPU or a browser are skipped where there is
    none.
    """
    for item in items:
        if MODEL_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device here"))
        if BROWSER_FIXTURE in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
        # In CI a browser that could not be installed must not pass for one that was tried.
        if item.get_closest_marker("browser") and not browser() and not os.environ.get("CI"):
            item.add_marker(pytest.mark.skip(reason=NO_BROWSER))


class _NoModels(ModuleType):
    """Stands where a library of models would, and fails the test that reaches for it."""

    def __getattr__(self, name: str) -> object:
        # Whoever looks through all modules asks for names like `__file__`, and means nothing by it.
        if name.startswith("__"):
            raise AttributeError(name)
        pytest.fail(
            f"{self.__name__}.{name} is wanted, and only slow tests may load a model: mark the "
            "test with pytest.mark.slow, and move it out of tests/unit where it is there",
        )


@pytest.fixture(autouse=True)
def _no_models(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that is not marked slow loads no model."""
    if not request.node.get_closest_marker("slow"):
        for name in ("diffusers", "transformers"):
            monkeypatch.setitem(sys.modules, name, _NoModels(name))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may reach for a hub, or log a run to one."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for tracker in ("WANDB", "SWANLAB"):
        monkeypatch.setenv(f"{tracker}_MODE", "offline")
    for variable in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="session")
def pipeline_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Path]:
    """Folder of a tiny pipeline of each Stable Diffusion generation, saved when first asked for."""

    @functools.cache
    def folder(kind: Kind) -> Path:
        path = tmp_path_factory.mktemp(kind)
        tiny_stable_diffusion(kind).save_pretrained(path)
        return path

    return folder


@pytest.fixture(scope="session")
def tiny_folder(pipeline_folders: Callable[[Kind], Path]) -> Path:
    """A tiny real Stable Diffusion 1.x pipeline, saved as any other."""
    return pipeline_folders("sd1")


@pytest.fixture(scope="session")
def warm() -> Iterator[Path]:
    """Where `dno` and `python` are that begin at once."""
    with warm_programs() as place:
        yield place


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty folder of distributions on the path; what is installed there is gone after the
    test.
    """
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Site(tmp_path)
    monkeypatch.undo()
    for name in [
        n for n, m in sys.modules.items() if str(tmp_path) in str(getattr(m, "__file__", ""))
    ]:
        del sys.modules[name]
    for registry in REGISTRIES:
        registry.refresh()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """Small models of the rewards with published weights, with a cache of their own for converted
    ones.
    """
    # Here, since it imports transformers, which most tests do without.
    from preference_models import save_models

    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DNO_CACHE", str(folder / "cache"))
        yield save_models(folder)
