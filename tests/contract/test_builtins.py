"""Every built-in plugin keeps its contract, by the same tests that authors of other plugins use."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

import pytest
from dno_builtin.rewards.picks import Picker, Picks
from preference_models import Models

from dno.registry.configs import PluginConfig
from dno.registry.registry import OBSERVERS, OPTIMIZERS, REGULARIZERS, REWARDS, SAMPLERS, Registry
from dno.testing import (
    ObserverContract,
    OptimizerContract,
    RegularizerContract,
    RewardContract,
    SamplerContract,
)
from dno.testing.clip import save_tiny_clip

pytestmark = pytest.mark.slow

PREFERENCE = ["aesthetic", "hpsv2", "hpsv2.1", "imagereward", "pickscore", "siglip"]
FROM_A_FILE = ["picks"]
OPTIONS: dict[str, dict[str, Any]] = {
    "ddim": {"steps": 3},
    "pipeline": {"steps": 3},
    "images": {"every": 1},
    # With so few entries, to look better than the start takes a larger step than in thousands.
    "local-search": {"beta": 0.3},
    "langevin": {"step_size": 0.1, "temperature": 0.1},
}


def names(registry: Registry[Any]) -> list[str]:
    return [info.name for info in registry.infos() if info.distribution == "dno"]


def config(registry: Registry[Any], name: str) -> PluginConfig:
    return registry.load(f"dno:{name}").model_validate(OPTIONS.get(name, {}))


@pytest.mark.parametrize(
    "name", [name for name in names(REWARDS) if name not in [*PREFERENCE, *FROM_A_FILE]]
)
class TestReward(RewardContract):
    @pytest.fixture(autouse=True)
    def _config(self, name: str) -> None:
        self.config = config(REWARDS, name)


@pytest.mark.parametrize("name", PREFERENCE)
class TestPreferenceReward(RewardContract):
    # Letters, which the small models' tokenizers know.
    prompts = ("a black cat", "duck", "red frog")

    @pytest.fixture(autouse=True)
    def _config(self, name: str, models: Models) -> None:
        self.config = models.config(name)


@pytest.mark.parametrize("features", ["colours", "clip"])
class TestPicks(RewardContract):
    @pytest.fixture(autouse=True)
    def _config(self, features: Literal["colours", "clip"], tmp_path: Path) -> None:
        model = str(save_tiny_clip(tmp_path / "clip")) if features == "clip" else "emoji-clip"
        file = tmp_path / "picks.jsonl"
        picker = Picker(file, features=features, model=model)
        shown = self.images()
        picker.add(shown[0], [shown[1], shown[2]])
        self.config = Picks(file=file, features=features, model=model)


@pytest.mark.parametrize("name", names(SAMPLERS))
class TestSampler(SamplerContract):
    @pytest.fixture(autouse=True)
    def _config(self, name: str, tiny_folder: Path) -> None:
        self.config = config(SAMPLERS, name).model_copy(update={"model": str(tiny_folder)})


@pytest.mark.parametrize("name", names(REGULARIZERS))
class TestRegularizer(RegularizerContract):
    @pytest.fixture(autouse=True)
    def _config(self, name: str) -> None:
        self.config = config(REGULARIZERS, name)


@pytest.mark.parametrize("name", names(OPTIMIZERS))
class TestOptimizer(OptimizerContract):
    @pytest.fixture(autouse=True)
    def _config(self, name: str) -> None:
        self.config = config(OPTIMIZERS, name)


@pytest.mark.parametrize("name", names(OBSERVERS))
class TestObserver(ObserverContract):
    @pytest.fixture(autouse=True)
    def _config(self, name: str) -> None:
        self.config = config(OBSERVERS, name)
        package = getattr(self.config, "package", None)
        if package is not None and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not among what the tests install")
