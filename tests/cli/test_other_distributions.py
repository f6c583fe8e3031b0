"""`dno plugins` and `dno optimize` with distributions beside ours, good and bad."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture
def crowd(site):
    """Distributions of which two claim one name, one claims a name twice, and others cannot be
    used.
    """
    site.install("dno-sunny", "[dno.v1.rewards]\nsunny = sunny_here:Sunny\n", "sunny_here")
    site.install("dno-bright", "[dno.v1.rewards]\nsunny = sunny_there:Sunny\n", "sunny_there")
    site.install(
        "dno-broken",
        "[dno.v1.rewards]\nbroken = broken_here:Sunny\n",
        "broken_here",
        "import not_there",
    )
    site.install(
        "dno-future", "[dno.v2.rewards]\nfuture = future_here:Sunny\n", "future_here", "1 / 0"
    )
    site.install("dno-typo", "[dno.v1.reward]\ntypo = typo_here:Sunny\n", "typo_here", "1 / 0")
    site.install("dno-loose", "[dno.V1.rewards]\nloose = loose_here:Sunny\n", "loose_here", "1 / 0")
    site.install("dno-bare", "[Dno.rewards]\nbare = bare_here:Sunny\n", "bare_here", "1 / 0")
    site.install(
        "dno-twice",
        "[dno.v1.rewards]\ntwin = twin_here:Sunny\ntwin = twin_here:NotThis\n",
        "twin_here",
    )
    site.install("dno-bad", "[dno.v1.rewards]\nBad_Name = bad_here:Sunny\n", "bad_here")
    site.install(
        "dno-exit",
        "[dno.v1.rewards]\nexit = exit_here:Sunny\n",
        "exit_here",
        "import sys; sys.exit(0)",
    )
    site.install("dno-fine", "[dno.v1.rewards]\nfine = fine_here:Sunny\n", "fine_here")


@pytest.mark.usefixtures("crowd")
def test_list_tells_what_stands_in_the_way_and_imports_nothing(dno):
    code, out, err = dno("plugins", "list")
    assert (code, err) == (0, "")
    rows = {line.split()[2]: line for line in out.splitlines() if line.split()[2] != "dno"}
    assert rows["dno-fine"].split() == ["rewards", "fine", "dno-fine", "1.2"]
    assert rows["dno-broken"].split() == ["rewards", "broken", "dno-broken", "1.2"]
    assert rows["dno-sunny"].endswith("(claimed twice; say dno-sunny:sunny)")
    assert rows["dno-future"].endswith(
        "(not for this dno: made for plugin contract v2, this is v1)"
    )
    assert "(there is no such kind of plugin; kinds: samplers, rewards," in rows["dno-typo"]
    groups = "(there is no such group of plugins; groups: dno.v1.samplers, dno.v1.rewards,"
    assert rows["dno-loose"].split()[:2] == ["dno.V1.rewards", "loose"]
    assert groups in rows["dno-loose"]
    assert groups in rows["dno-bare"]
    assert rows["dno-twice"].endswith(
        "(claimed twice; dno-twice has to give each a name of its own)"
    )
    assert rows["dno-bad"].endswith(
        "(its name cannot be used: lower case letters, digits, '-', '_' and '.' can)"
    )
    assert not [name for name in sys.modules if name.endswith(("_here", "_there"))]


@pytest.mark.usefixtures("crowd")
def test_check_has_a_row_each_and_fails_for_the_broken_ones_alone(dno):
    code, out, err = dno("plugins", "check")
    assert (code, err) == (1, "")
    bad = {line.split()[1]: line for line in out.splitlines() if not line.endswith(" ok")}
    assert list(bad) == ["Bad_Name", "broken", "exit", "twin", "bare", "loose", "typo", "future"]
    assert (
        'reward "broken" of dno-broken 1.2 (broken_here:Sunny) needs the module not_there, which'
        in bad["broken"]
    )
    assert "could not be imported: SystemExit: 0; update or uninstall it" in bad["exit"]
    assert "(twin_here:NotThis) and dno-twice 1.2 (twin_here:Sunny); its author must" in bad["twin"]
    assert not {"future_here", "typo_here"} & set(sys.modules)


@pytest.mark.usefixtures("crowd")
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("sunny", '1.2 (sunny_here:Sunny); say which: "dno-bright:sunny" or "dno-sunny:sunny"'),
        ("dno-twice:twin", "1.2 (twin_here:Sunny); its author must give each a name of its own"),
        (
            "broken",
            "needs the module not_there, which is not installed; install what provides it, or "
            "update",
        ),
        ("exit", "could not be imported: SystemExit: 0; update or uninstall it"),
        (
            "future",
            "made for plugin contract v2, this dno has v1; install a release of it made for v1",
        ),
        ("fin", 'no reward is called "fin"; did you mean fine?'),
    ],
)
def test_a_run_that_asks_for_one_that_cannot_be_used_ends_in_one_sentence(
    dno, tmp_path, monkeypatch, name, problem
):
    monkeypatch.chdir(tmp_path)
    code, out, err = dno("optimize", "a cat", "--reward", name)
    assert (code, out) == (2, "")
    assert problem in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


FAILING = """
from dno.plugin import RewardConfig
class Failing(RewardConfig):
    frozen: bool = False
    def build(self, ctx):
        if self.frozen:
            self.weight = 2
        return score
def score(images, prompts):
    return images.numpyish()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "told", "line", "code"),
    [
        ([], 'reward "failing" failed with AttributeError: ', 10, 1),
        (
            ["--set", "rewards.0.frozen=true"],
            "rewards.0: could not be made: ValidationError: 1 validation error",
            7,
            2,
        ),
    ],
)
def test_a_mistake_in_a_plugins_code_is_told_with_its_place(
    dno, site, tmp_path, settings, told, line, code
):
    site.install(
        "dno-failing", "[dno.v1.rewards]\nfailing = failing_here:Failing\n", "failing_here", FAILING
    )
    run = [
        "--steps",
        "2",
        "--iterations",
        "1",
        "--quiet",
        "--out",
        str(tmp_path / "run"),
        *settings,
    ]
    found, _, err = dno("optimize", "a cat", "--reward", "failing", *run)
    assert found == code
    assert err.startswith(f"dno: {told}")
    assert err.endswith(f" (at {tmp_path / 'failing_here.py'}:{line})\n")
    assert len(err.splitlines()) == 1


@pytest.mark.usefixtures("crowd")
def test_a_clash_is_settled_by_the_distribution(dno):
    code, out, err = dno("plugins", "show", "dno-bright:sunny")
    assert (code, err) == (0, "")
    assert out.startswith("reward sunny (dno-bright 1.2)\n")
    assert "sunny_here" not in sys.modules


def test_list_counts_claims_and_keeps_its_columns(dno, site):
    for which in ("one", "two", "three"):
        site.install(
            f"dno-{which}", f"[dno.v1.rewards]\n{'long-' * 5}name = nowhere_{which}:Sunny\n"
        )
    rows = dno("plugins", "list")[1].splitlines()
    claimed = [row for row in rows if "name" in row]
    assert [row.partition("(")[2] for row in claimed] == [
        f"claimed 3 times; say dno-{which}:long-long-long-long-long-name)"
        for which in ("one", "three", "two")
    ]
    assert {row.index(" dno") for row in rows} == {claimed[0].index(" dno")}


@pytest.mark.usefixtures("crowd")
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "future",
            'reward "future" of dno-future 1.2 is made for plugin contract v2, this dno has v1; '
            "install a",
        ),
        (
            "rewards/dno-future:future",
            'reward "dno-future:future" of dno-future 1.2 is made for plugin contract v2,',
        ),
        (
            "typo",
            '"typo" of dno-typo cannot be used: there is no such kind of plugin; kinds: samplers,',
        ),
        (
            "bare",
            '"bare" of dno-bare cannot be used: there is no such group of plugins; groups: '
            "dno.v1.samplers,",
        ),
        ("sunnny", 'no plugin is called "sunnny"; did you mean sunny? see: dno plugins list'),
        ("dimm", 'no plugin is called "dimm"; did you mean ddim? see: dno plugins list'),
        ("reward/sunnny", 'no reward is called "sunnny"; did you mean sunny? installed: '),
        ("prize/sunny", 'there is no kind "prize"; kinds: samplers, rewards,'),
    ],
)
def test_show_tells_what_is_wrong_with_a_name(dno, name, problem):
    code, out, err = dno("plugins", "show", name)
    assert (code, out) == (2, "")
    assert err.startswith(f"dno: {problem}")
    assert len(err.splitlines()) == 1


def test_show_borrows_no_docstring(dno, site):
    site.install("dno-sunny", "[dno.v1.rewards]\nsunny = silent:Sunny\n", "silent")
    assert dno("plugins", "show", "sunny")[1].startswith(
        "reward sunny (dno-sunny 1.2)\n\n  weight: float [default: 1.0]\n"
    )


HALF_SICK = """
import torch
from dno.plugin import RewardConfig
class HalfSick(RewardConfig):
    def build(self, ctx):
        return score
def score(images, prompts):
    brightness = images.mean(dim=(1, 2, 3))
    sick = torch.tensor([prompt == "a dog" for prompt in prompts])
    return torch.where(sick, float("nan"), brightness)
"""


def test_a_run_some_of_whose_samples_failed_is_not_a_success(dno, site, tiny_folder, tmp_path):
    site.install(
        "dno-half", "[dno.v1.rewards]\nhalf = half_here:HalfSick\n", "half_here", HALF_SICK
    )
    folder = tmp_path / "run"
    args = ["--model", tiny_folder, "--steps", 2, "--iterations", 2, "--quiet", "--out", folder]
    code, out, err = dno("optimize", "a cat", "a dog", "--reward", "half", *args)
    assert code == 1
    assert "partial" in out
    assert err == (
        f"dno: 1 of 2 samples failed; the others went well, and all are kept in {folder}\n"
    )
    assert (folder / "best.png").is_file()
