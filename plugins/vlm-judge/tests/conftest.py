"""Settings and models that the tests share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from tiny_judges import SAVERS

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub, and no proxy between a test and its server."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny model of a family, saved when first asked for."""
    return cache(lambda family: SAVERS[family](tmp_path_factory.mktemp("models") / family))


@pytest.fixture(scope="session")
def llava(folder_of: Callable[[str], Path]) -> Path:
    """A tiny LLaVA."""
    return folder_of("llava")
