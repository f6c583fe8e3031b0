"""`dno plugins` and `dno optimize` with distributions beside ours, good and bad."""

from __future__ import annotations

import sys

import pytest

from dno.front import cli


@pytest.fixture
def dno(monkeypatch, capsys):
    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dno", *args])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


@pytest.fixture
def crowd(site):
    """Six distributions, of which two claim one name and three cannot be used."""
    site.install("dno-sunny", "[dno.v1.rewards]\nsunny = sunny_here:Sunny\n", "sunny_here")
    site.install("dno-bright", "[dno.v1.rewards]\nsunny = sunny_there:Sunny\n", "sunny_there")
    site.install("dno-broken", "[dno.v1.rewards]\nbroken = broken_here:Sunny\n", "broken_here", "import not_there")
    site.install("dno-future", "[dno.v2.rewards]\nfuture = future_here:Sunny\n", "future_here", "1 / 0")
    site.install("dno-typo", "[dno.v1.reward]\ntypo = typo_here:Sunny\n", "typo_here", "1 / 0")
    site.install("dno-fine", "[dno.v1.rewards]\nfine = fine_here:Sunny\n", "fine_here")


@pytest.mark.usefixtures("crowd")
def test_list_tells_what_stands_in_the_way_and_imports_nothing(dno):
    code, out, err = dno("plugins", "list")
    assert (code, err) == (0, "")
    rows = {line.split()[2]: line for line in out.splitlines() if line.split()[2] != "dno"}
    assert rows["dno-fine"].split() == ["rewards", "fine", "dno-fine", "1.2"]
    assert rows["dno-broken"].split() == ["rewards", "broken", "dno-broken", "1.2"]
    assert rows["dno-sunny"].endswith("(claimed twice; say dno-sunny:sunny)")
    assert rows["dno-future"].endswith("(not for this dno: made for plugin contract v2, this is v1)")
    assert "(there is no such kind of plugin; kinds: samplers, rewards," in rows["dno-typo"]
    assert not [name for name in sys.modules if name.endswith(("_here", "_there"))]


@pytest.mark.usefixtures("crowd")
def test_check_has_a_row_each_and_fails_for_the_broken_one_alone(dno):
    code, out, err = dno("plugins", "check")
    assert (code, err) == (1, "")
    bad = [line for line in out.splitlines() if not line.endswith(" ok")]
    assert [line.split()[1] for line in bad] == ["broken", "typo", "future"]
    assert 'reward "broken" of dno-broken 1.2 (broken_here:Sunny) needs the module not_there' in bad[0]
    assert not {"future_here", "typo_here"} & set(sys.modules)


@pytest.mark.usefixtures("crowd")
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("sunny", 'claimed by dno-bright 1.2 and dno-sunny 1.2; say which: "dno-bright:sunny" or "dno-sunny:sunny"'),
        ("broken", "needs the module not_there; try: pip install not_there"),
        ("future", "made for plugin contract v2, this dno has v1; install a release of it made for v1"),
        ("fin", 'no reward is called "fin"; did you mean fine?'),
    ],
)
def test_a_run_that_asks_for_one_that_cannot_be_used_ends_in_one_sentence(dno, tmp_path, monkeypatch, name, problem):
    monkeypatch.chdir(tmp_path)
    code, out, err = dno("optimize", "a cat", "--reward", name)
    assert (code, out) == (2, "")
    assert problem in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("crowd")
def test_a_clash_is_settled_by_the_distribution(dno):
    code, out, err = dno("plugins", "show", "dno-bright:sunny")
    assert (code, err) == (0, "")
    assert out.startswith("reward sunny (dno-bright 1.2)\n")
    assert "sunny_here" not in sys.modules
