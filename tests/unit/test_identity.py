"""Who an item of a study is: what it sets, whatever options and defaults a release has."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from distributions import Site

import dno
from dno.core.function import FunctionSampler
from dno.errors import ConfigError
from dno.registry.registry import REWARDS
from dno.runs import earlier
from dno.runs.earlier import check_defaults
from dno.runs.identity import digest_of, set_by
from dno.runs.objects import Likeness, print_of
from dno.runs.run_config import RunConfig
from dno.runs.saved import SavedRun
from dno.runs.start_noise import FOUND, read_found
from dno.runs.tensor_files import pack

SAMPLER = FunctionSampler(torch.sigmoid, [(3, 8, 8)])

REWARD = """
from dno.plugin import RewardConfig
class Sunny(RewardConfig):
    "Light."
    strength: float = {strength}
    "How strong."
    {more}
    def build(self, ctx):
        return lambda images, prompts: self.strength * images.mean(dim=(1, 2, 3))
"""


class Releases:
    """A plugin, of which one release follows the other in this process."""

    def __init__(self, site: Site) -> None:
        self.site = site
        site.install(
            "dno-sunny", "[dno.v1.rewards]\nsunny = sunny_plugin:Sunny\n", "sunny_plugin", ""
        )
        self.release()

    def release(self, strength: float = 1.0, more: str = "") -> None:
        sys.modules.pop("sunny_plugin", None)
        code = REWARD.format(strength=strength, more=more)
        # Of another length each time, so that no compiled file is taken for it.
        (self.site.path / "sunny_plugin.py").write_text(code + f"# {strength}{more}\n" * 3)
        REWARDS.refresh()


@pytest.fixture
def releases(site: Site) -> Releases:
    return Releases(site)


def study(folder: Path, **options: Any) -> dno.Study:
    given = {
        "reward": "sunny",
        "sampler": SAMPLER,
        "iterations": 1,
        "seeds": [0, 1],
        "settings": {"observers": []},
        **options,
    }
    return dno.batch(["a cat", "a dog"], out=folder, **given)


def stamps(folder: Path) -> dict[str, int]:
    """When each item ended."""
    return {
        path.name: (path / "result.json").stat().st_mtime_ns
        for path in (folder / "items").iterdir()
    }


def named_as_before(folder: Path, **others: Any) -> None:
    """Give items the names that earlier releases gave them: of all their settings."""
    for path in list((folder / "items").iterdir()):
        values = dict(SavedRun(path).values)
        free = ("observers", "device", "metadata", "seeds")
        # What it was, before it was found out.
        values |= {"coarse": others.get("coarse", "auto")}
        told = {key: value for key, value in values.items() if key not in free}
        text = json.dumps(told, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        slug, _, seed = path.name.rsplit("-", 2)
        path.rename(path.with_name(f"{slug}-{digest}-{seed}"))


def test_an_option_that_a_release_adds_begins_no_study_anew(
    releases: Releases, tmp_path: Path
) -> None:
    study(tmp_path)
    before = stamps(tmp_path)
    releases.release(more='blur: int = 0\n    "New."')
    found = study(tmp_path)
    assert stamps(tmp_path) == before
    assert [row["standing"] for row in found.rows] == ["done"] * 4
    # Where it is set, it is another item.
    study(tmp_path, settings={"observers": [], "rewards.0.blur": 1})
    assert len(stamps(tmp_path)) == 8


@pytest.mark.parametrize("more", ["", 'blur: int = 0\n    "New."'], ids=["same", "new option"])
def test_a_study_is_found_that_an_earlier_release_named(
    more: str, releases: Releases, tmp_path: Path
) -> None:
    study(tmp_path)
    own = set(stamps(tmp_path))
    named_as_before(tmp_path)
    before = stamps(tmp_path)
    assert not own & before.keys()
    releases.release(more=more)
    found = study(tmp_path)
    assert stamps(tmp_path) == before
    assert [row["standing"] for row in found.rows] == ["done"] * 4
    assert {row["item"] for row in found.rows} == before.keys()

    (tmp_path / "items" / min(before) / "result.json").unlink()
    again = study(tmp_path)
    assert stamps(tmp_path).keys() == before.keys()
    assert [row["standing"] for row in again.rows] == ["done"] * 4


@pytest.mark.parametrize("others", [{"optimizer": "adam"}, {"coarse": []}], ids=str)
@pytest.mark.parametrize("before", [False, True])
def test_items_with_other_settings_are_not_taken_for_these(
    others: dict[str, Any], before: bool, releases: Releases, tmp_path: Path
) -> None:
    study(tmp_path, **others)
    if before:
        named_as_before(tmp_path, **others)
    study(tmp_path)
    assert len(stamps(tmp_path)) == 8


def test_a_default_that_a_release_changes_mixes_nothing(releases: Releases, tmp_path: Path) -> None:
    study(tmp_path)
    before = stamps(tmp_path)
    releases.release(strength=2.0)
    message = (
        r"items.a-cat-.*: was made with rewards\.0\.strength = 1\.0, where the default is 2\.0 "
        r"now; go on with it by --set rewards\.0\.strength=1\.0, or name another folder"
    )
    with pytest.raises(ConfigError, match=message):
        study(tmp_path)
    found = study(tmp_path, settings={"observers": [], "rewards.0.strength": 1.0})
    assert stamps(tmp_path) == before
    assert [row["standing"] for row in found.rows] == ["done"] * 4


def test_what_was_changed_by_going_on_with_an_item_is_told(
    releases: Releases, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study(tmp_path, iterations=15, seeds=[0])
    file = tmp_path / "items" / min(stamps(tmp_path)) / "run.toml"
    file.write_text(file.read_text().replace("iterations = 15", "iterations = 16"))
    study(tmp_path, iterations=15, seeds=[0])
    assert "1 of the items there were made with iterations = 16, and not 15" in caplog.text


def parsed(**values: Any) -> RunConfig:
    return RunConfig.parse({"prompts": ["x"], "rewards": ["brightness"], **values})


def test_defaults_that_are_given_change_no_name() -> None:
    plain = parsed()
    for same in (
        {"iterations": 15},
        {"sampler": {"use": "ddim", "steps": 50, "eta": 1.0}},
        {"rewards": [{"use": "brightness", "weight": 1.0}]},
        {"constraints": ["shell"], "reports": [{"use": "gaussianity"}]},
        {"budget": {}, "gradient": {"method": "auto"}, "regularizers": []},
        {"device": "cpu", "observers": [], "metadata": False},
    ):
        assert digest_of(parsed(**same)) == digest_of(plain), same
    for other in (
        {"iterations": 16},
        {"sampler": {"use": "ddim", "steps": 49}},
        {"sampler": "pipeline"},
        {"rewards": [{"use": "brightness", "weight": 2.0}]},
        {"rewards": ["brightness", "contrast"]},
        {"constraints": []},
        {"budget": {"target": 1.0}},
        {"prompts": ["y"]},
    ):
        assert digest_of(parsed(**other)) != digest_of(plain), other


def test_what_is_set_is_all_that_is_told() -> None:
    config = parsed(iterations=3, sampler={"use": "ddim", "steps": 10}, budget={"target": 1.0})
    assert set_by(config.dump(), "seeds") == {
        "prompts": ["x"],
        "iterations": 3,
        "budget": {"target": 1.0},
        "sampler": {"use": "ddim", "steps": 10},
        "rewards": [{"use": "brightness"}],
    }


def test_a_default_that_changes_while_items_are_side_by_side_mixes_nothing(
    releases: Releases, tmp_path: Path
) -> None:
    sizes: list[int] = []

    def draw(noise: torch.Tensor) -> torch.Tensor:
        sizes.append(len(noise))
        if len(sizes) == 4:
            raise KeyboardInterrupt
        return torch.sigmoid(noise)

    given = {"sampler": FunctionSampler(draw, [(3, 8, 8)]), "iterations": 6, "optimizer": "adam"}
    assert study(tmp_path, size=2, seeds=[0], **given).interrupted
    releases.release(strength=2.0)
    before = len(sizes)
    for size in (1, 2):
        with pytest.raises(
            ConfigError, match=r"together.*: was made with rewards\.0\.strength = 1"
        ):
            study(tmp_path, size=size, seeds=[0], **given)
    assert len(sizes) == before

    settings = {"observers": [], "rewards.0.strength": 1.0}
    found = study(tmp_path, seeds=[0], settings=settings, **given)
    assert [row["standing"] for row in found.rows] == ["done"] * 2
    assert set(sizes) == {2}
    assert not (tmp_path / "together").exists()


def test_another_function_of_the_same_name_is_refused(tmp_path: Path) -> None:
    study(tmp_path, reward=lambda images, prompts: images.mean(dim=(1, 2, 3)))
    another = {"reward": lambda images, prompts: -images.mean(dim=(1, 2, 3))}
    with pytest.raises(ConfigError, match="another Python object of this name as rewards.0"):
        study(tmp_path, **another)

    for file in tmp_path.glob("items/*/objects.json"):
        file.unlink()
    assert [row["standing"] for row in study(tmp_path, **another).rows] == ["done"] * 4


def test_a_relative_path_that_means_another_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "AB":
        (tmp_path / name).mkdir()
    config = parsed(start="x.safetensors")
    item = tmp_path / "item"
    item.mkdir()
    (item / "run.toml").write_bytes(config.located(tmp_path / "A").to_toml())
    monkeypatch.chdir(tmp_path / "A")
    check_defaults([(item, config)])
    monkeypatch.chdir(tmp_path / "B")
    with pytest.raises(ConfigError, match="this command means start"):
        check_defaults([(item, config)])


class Closed:
    """A reward that lets nobody look inside."""

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        raise RuntimeError("closed")

    def __call__(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3))


def test_an_object_that_cannot_be_looked_into_is_doubted_and_fails_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert print_of(Closed()).like(print_of(Closed())) is Likeness.UNKNOWN
    study(tmp_path, reward=Closed())
    found = study(tmp_path, reward=Closed())
    assert [row["standing"] for row in found.rows] == ["done"] * 4
    assert "it cannot be told whether 4 of the items" in caplog.text


def scaled(factor: float) -> Any:
    def reward(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        return factor * images.mean(dim=(1, 2, 3))

    return reward


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (scaled(1), Likeness.SAME),
        (scaled(2), Likeness.UNKNOWN),
        (functools.partial(scaled(1)), Likeness.OTHER),
        (lambda images, prompts: images.mean(dim=(1, 2, 3)), Likeness.OTHER),
        (torch.sigmoid, Likeness.OTHER),
    ],
)
def test_another_function_is_another_and_other_values_raise_a_doubt(
    value: Any, expected: Likeness
) -> None:
    assert print_of(value).like(print_of(scaled(1))) is expected


def test_a_print_is_the_same_in_every_process() -> None:
    code = """
from dno.runs.objects import print_of
def reward(images, prompts):
    return images.mean() if prompts[0] in {"a cat", "a dog", "a pig", "a fox"} else images.max()
print(print_of(reward))
"""
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "12"
    }
    assert len(told) == 1
    assert "code=''" not in told.pop()


def test_folders_of_others_are_read_once_however_many_items_are_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [parsed(seeds=(seed,)) for seed in range(6)]
    for seed, config in enumerate(configs[:3]):
        item = tmp_path / f"a-cat-{seed:08x}-s0"
        item.mkdir()
        (item / "run.toml").write_bytes(config.to_toml())
    read: list[Path] = []
    of_values = earlier.fingerprint

    def counted(values: Any) -> str:
        read.append(values)
        return of_values(values)

    monkeypatch.setattr(earlier, "fingerprint", counted)
    items = {f"a-cat-{9 + seed:08x}-s0": config for seed, config in enumerate(configs)}
    assert earlier.names_there(items, tmp_path) == {
        f"a-cat-{9 + seed:08x}-s0": f"a-cat-{seed:08x}-s0" for seed in range(3)
    }
    assert len(read) == 3 + 6


def test_noise_found_for_another_picture_is_not_taken(tmp_path: Path) -> None:
    about = {"draws": [[3, 2, 2]], "picture": "one"}
    (tmp_path / FOUND).write_bytes(pack({"best": torch.ones(1, 12)}, about))
    assert read_found(tmp_path, "one") is not None
    assert read_found(tmp_path, "other") is None
