"""Plugins are found, refused and explained from real distributions on the path."""

from __future__ import annotations

import sys

import pytest
from distributions import GOOD

from dno.errors import PluginLoadError, UnknownPluginError
from dno.registry import MODELS, REWARDS, unsupported


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
    with pytest.raises(UnknownPluginError, match=r'claimed by dno-bright 1.2 and dno-sunny 1.2.*"dno-sunny:sunny"'):
        REWARDS.load("sunny")
    cls = REWARDS.load("dno-bright:sunny")
    assert cls.__module__ == "sunny_three"
    assert REWARDS.name_of(cls()) == "dno-bright:sunny"


@pytest.mark.parametrize(
    ("code", "target", "problem"),
    [
        ("import not_there_at_all", "Sunny", "pip install not_there_at_all"),
        ("1 / 0", "Sunny", "could not be imported: ZeroDivisionError: division by zero"),
        (GOOD, "NotThis", "is not a RewardConfig"),
        (GOOD, "Missing", "could not be imported: AttributeError"),
    ],
    ids=["missing module", "raises", "not a config", "no such class"],
)
def test_a_broken_plugin_is_told_in_one_sentence_and_harms_no_other(site, code, target, problem):
    site.install("dno-bad", f"[dno.v1.rewards]\nbad = bad_module:{target}\n", "bad_module", code)
    with pytest.raises(PluginLoadError, match=problem) as caught:
        REWARDS.load("bad")
    assert '"bad" of dno-bad 1.2 (bad_module:' in str(caught.value)
    assert "\n" not in str(caught.value)
    assert REWARDS.load("brightness").__name__ == "Brightness"


def test_a_module_that_is_not_there(site):
    site.install("dno-gone", "[dno.v1.rewards]\ngone = gone_module:Sunny\n")
    with pytest.raises(PluginLoadError, match="names a module that is not there; reinstall it"):
        REWARDS.load("gone")


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
    with pytest.raises(UnknownPluginError, match=r'no reward is called "brigtness"; did you mean brightness\?'):
        REWARDS.load("brigtness")
    with pytest.raises(UnknownPluginError, match="installed: emoji, emoji-clip, emoji-judge"):
        MODELS.load("zzz")
