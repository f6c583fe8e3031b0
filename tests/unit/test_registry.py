"""Plugins are found, refused and explained from real distributions on the path."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass

import pytest
from distributions import GOOD, Site

from dno.errors import PluginLoadError, UnknownPluginError
from dno.registry.discovery import damaged, unsupported
from dno.registry.registry import MODELS, REWARDS


def test_a_plugin_is_listed_without_being_imported_and_loaded_by_name(site):
    site.install("dno-sunny", "[dno.v1.rewards]\nsunny = sunny_one:Sunny\n", "sunny_one")
    (info,) = [i for i in REWARDS.infos() if i.name == "sunny"]
    assert (info.distribution, info.version, info.kind) == ("dno-sunny", "1.2", "rewards")
    assert "sunny_one" not in sys.modules
    cls = REWARDS.load("sunny")
    assert cls.__name__ == "Sunny"
    assert REWARDS.name_of(cls()) == "sunny"


def test_two_distributions_that_claim_a_name_are_both_named_and_either_can_be_picked(site):
    site.install("dno-sunny", "[dno.v1.rewards]\nsunny = sunny_two:Sunny\n", "sunny_two")
    site.install("dno-bright", "[dno.v1.rewards]\nsunny = sunny_three:Sunny\n", "sunny_three")
    with pytest.raises(
        UnknownPluginError, match=r'claimed by dno-bright 1.2 \(.*"dno-sunny:sunny"'
    ):
        REWARDS.load("sunny")
    cls = REWARDS.load("dno-bright:sunny")
    assert cls.__module__ == "sunny_three"
    assert REWARDS.name_of(cls()) == "dno-bright:sunny"


TWINS = "[dno.v1.rewards]\ntwin = twins:Sunny\ntwin = twins:Cloudy\n"


def test_one_distribution_that_claims_a_name_twice_is_its_authors_mistake(site):
    site.install("dno-twice", TWINS, "twins", f"{GOOD}class Cloudy(Sunny): ...\n")
    for use in ("twin", "dno-twice:twin"):
        with pytest.raises(UnknownPluginError) as caught:
            REWARDS.load(use)
        assert str(caught.value) == (
            f'reward "{use}" is claimed by dno-twice 1.2 (twins:Cloudy) and dno-twice 1.2 '
            "(twins:Sunny); "
            "its author must give each a name of its own"
        )
    site.install("dno-bright", "[dno.v1.rewards]\ntwin = bright_twin:Sunny\n", "bright_twin")
    with pytest.raises(UnknownPluginError, match='; say which: "dno-bright:twin"$'):
        REWARDS.load("twin")
    assert REWARDS.load("dno-bright:twin").__module__ == "bright_twin"


def test_a_config_is_given_no_name_that_does_not_load_it(site):
    site.install("dno-twice", TWINS, "twins", f"{GOOD}class Cloudy(Sunny): ...\n")
    site.install("dno-bad", "[dno.v1.rewards]\nBad_Name = bad_name:Sunny\n", "bad_name")
    site.install("dno-future", "[dno.v2.rewards]\nfuture = in_future:Sunny\n", "in_future")
    for module in ("twins", "bad_name", "in_future"):
        assert REWARDS.name_of(importlib.import_module(module).Sunny()) is None


CHECKERS_ALONE = """
from __future__ import annotations
from typing import TYPE_CHECKING
from dno.plugin import RewardConfig
if TYPE_CHECKING:
    from pathlib import Path
class Sunny(RewardConfig):
    path: Path | None = None
    def build(self, ctx): ...
"""


ABSTRACT = """
from dno.plugin import RewardConfig
class Sunny(RewardConfig): ...
"""


@pytest.mark.parametrize(
    ("code", "target", "problem"),
    [
        (
            "import not_there_at_all",
            "bad_module:Sunny",
            "needs the module not_there_at_all, which is not installed; ",
        ),
        (
            "import json.gone",
            "bad_module:Sunny",
            "needs the module json.gone, which is not installed; install what ",
        ),
        (
            "import dno.gone",
            "bad_module:Sunny",
            "was made for another version of dno, one that has dno.gone; update",
        ),
        (
            "import bad_module._typo",
            "bad_module:Sunny",
            "has no module bad_module._typo; reinstall or update it",
        ),
        (
            "1 / 0",
            "bad_module:Sunny",
            "could not be imported: ZeroDivisionError: division by zero; update or",
        ),
        (
            "raise ValueError('one,\\n  two')",
            "bad_module:Sunny",
            "could not be imported: ValueError: one, two; update",
        ),
        (
            "assert False",
            "bad_module:Sunny",
            "could not be imported: AssertionError; update or uninstall it",
        ),
        (
            "raise ModuleNotFoundError('no luck')",
            "bad_module:Sunny",
            "could not be imported: ModuleNotFoundError: no ",
        ),
        (
            "import sys; sys.exit('bye')",
            "bad_module:Sunny",
            "could not be imported: SystemExit: bye; update or",
        ),
        (GOOD, "bad_module:NotThis", "is no RewardConfig; its author must derive it from one"),
        (GOOD, "bad_module:Missing", "could not be imported: AttributeError: "),
        (
            GOOD,
            "bad_module of mine",
            "does not say where its class is; its author must write module:Class",
        ),
        (
            GOOD,
            "bad_module.deeper:Sunny",
            "has no module bad_module.deeper; reinstall or update it",
        ),
        (GOOD, "no_module:Sunny", "has no module no_module; reinstall or update it"),
        (ABSTRACT, "bad_module:Sunny", "does not define build; its author must"),
        (
            CHECKERS_ALONE,
            "bad_module:Sunny",
            "imports an option's type for type checkers alone; its author",
        ),
    ],
)
def test_a_broken_plugin_is_told_in_one_sentence_and_harms_no_other(site, code, target, problem):
    site.install("dno-bad", f"[dno.v1.rewards]\nbad = {target}\n", "bad_module", code)
    with pytest.raises(PluginLoadError) as caught:
        REWARDS.load("bad")
    assert str(caught.value).startswith(f'reward "bad" of dno-bad 1.2 ({target}) {problem}')
    assert "\n" not in str(caught.value)
    assert REWARDS.load("brightness").__name__ == "Brightness"


def test_a_model_without_a_folder_is_refused(site):
    code = "from dno.plugin import ModelConfig\nclass Tiny(ModelConfig): ...\n"
    site.install("dno-tiny", "[dno.v1.models]\ntiny = tiny_model:Tiny\n", "tiny_model", code)
    with pytest.raises(PluginLoadError, match="does not define folder; its author must"):
        MODELS.load("tiny")


@pytest.mark.parametrize(
    ("requires", "mend"),
    [
        ("some-Vision", 'try: pip install "some-Vision"'),
        ('some.vision[gpu]>=3 ; extra == "all"', 'try: pip install "some.vision[gpu]>=3"'),
        ("some-vision-tools", "install what provides it, or update the plugin"),
    ],
)
def test_a_missing_module_is_taken_for_a_distribution_only_if_the_author_says_so(
    site, requires, mend
):
    entry = "[dno.v1.rewards]\nsee = seeing:Sunny\n"
    site.install("dno-see", entry, "seeing", "import some_vision", requires=requires)
    with pytest.raises(PluginLoadError) as caught:
        REWARDS.load("see")
    assert "needs the module some_vision" in str(caught.value)
    assert str(caught.value).endswith(mend)


def test_a_bad_name_is_refused(site):
    site.install("dno-bad", "[dno.v1.rewards]\nBad_Name = sunny_four:Sunny\n", "sunny_four")
    with pytest.raises(PluginLoadError, match="has a bad name; use lower case letters"):
        REWARDS.load("Bad_Name")


def test_another_contract_version_is_told_without_importing(site):
    site.install("dno-future", "[dno.v2.rewards]\nfuture = future_module:Sunny\n", "future_module")
    with pytest.raises(UnknownPluginError, match="made for plugin contract v2, this dno has v1"):
        REWARDS.load("future")
    assert "future" in [i.name for i in unsupported()]
    assert "future_module" not in sys.modules


def test_an_unknown_name_brings_near_ones_and_the_list():
    with pytest.raises(
        UnknownPluginError, match=r'no reward is called "brigtness"; did you mean brightness\?'
    ):
        REWARDS.load("brigtness")
    with pytest.raises(UnknownPluginError, match="installed: emoji, emoji-clip, emoji-judge"):
        MODELS.load("zzz")


@dataclass(frozen=True)
class Damage:
    """What is wrong with a distribution's metadata."""

    name: str
    entry_points: bytes
    metadata: bytes = b"Metadata-Version: 2.1\nName: dno-broken\nVersion: 1.2\n"
    called: str = "dno-broken"


DAMAGES = (
    Damage("latin-1", b"[dno.v1.rewards]\ncaf\xe9 = x:Y\n"),
    Damage("binary", bytes(range(256))),
    Damage("no equals sign", b"[dno.v1.rewards]\nsunny\n"),
    Damage("latin-1 name", b"[dno.v1.rewards]\na = x:Y\n", b"Name: caf\xe9\n", "dno_broken-1.2"),
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_damaged_metadata_hide_no_other_distribution_and_are_named(site, damage):
    broken = site.path / "dno_broken-1.2.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_bytes(damage.metadata)
    (broken / "entry_points.txt").write_bytes(damage.entry_points)
    site.install("dno-sunny", "[dno.v1.rewards]\nsunny = sunny_nine:Sunny\n", "sunny_nine")

    assert REWARDS.load("sunny").__module__ == "sunny_nine"
    assert "brightness" in {info.name for info in REWARDS.infos()}
    told = f"the metadata of .*{damage.called}.* cannot be read .*; reinstall it"
    with pytest.raises(UnknownPluginError, match=told):
        REWARDS.load("nope")
    assert [re.fullmatch(told, str(each)) is not None for each in damaged()] == [True]


def test_of_two_distributions_of_one_name_the_first_on_the_path_counts(site, tmp_path_factory):
    site.install("dno-sunny", "[dno.v1.rewards]\nsunny = sunny_ten:Sunny\n", "sunny_ten")
    behind = tmp_path_factory.mktemp("behind")
    sys.path.append(str(behind))
    try:
        Site(behind).install("dno-sunny", "[dno.v1.rewards]\ncloudy = sunny_ten:Sunny\n")
        names = {info.name for info in REWARDS.infos()}
    finally:
        sys.path.remove(str(behind))
        REWARDS.refresh()
    assert "sunny" in names
    assert "cloudy" not in names
