"""Subcommands that distributions add to `dno`, good and bad."""

from __future__ import annotations

import sys

import pytest

from dno.cli.commands import OWN
from dno.cli.main import make_app
from dno.errors import DNOError, PluginLoadError
from dno.registry.registry import COMMANDS

GREET = """
import typer
from typing import Annotated
from dno.plugin import ConfigError
def greet(name: str, times: Annotated[int, typer.Option(help="How often.")] = 1):
    "Say hello."
    if name == "nobody":
        raise ConfigError("nobody is here", at="name")
    if name == "bug":
        raise KeyError("lost")
    if name == "three":
        raise typer.Exit(3)
    print("hello", name, times)
"""


@pytest.fixture
def greeting(site):
    site.install("dno-greet", "[dno.v1.commands]\ngreet = greeting:greet\n", "greeting", GREET)
    return site


def test_what_dno_has_itself_is_known():
    app = make_app()
    named = [one.name or one.callback.__name__ for one in app.registered_commands]
    others = {info.name for info in COMMANDS.infos()}
    assert {*named, *(one.name for one in app.registered_groups)} - others == set(OWN)


@pytest.mark.usefixtures("greeting")
def test_it_is_listed_without_being_imported(dno):
    code, out, err = dno("--help")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines() if "greet" in line] == [
        ["greet", "A", "command", "of", "dno-greet", "1.2."]
    ]
    _, out, _ = dno("plugins", "list")
    assert "commands      greet                dno-greet 1.2\n" in out
    assert "greeting" not in sys.modules


@pytest.mark.usefixtures("greeting")
def test_it_reads_what_follows_it(dno):
    assert dno("greet", "Ada", "--times", 2) == (0, "hello Ada 2\n", "")
    assert dno("greet", "--times=2", "Ada") == (0, "hello Ada 2\n", "")
    code, out, _ = dno("greet", "--help")
    assert code == 0
    assert "Usage: dno greet [OPTIONS]" in out
    assert "How often." in out
    assert dno("greet", "three")[0] == 3


@pytest.mark.usefixtures("greeting")
def test_mistakes_and_failures_are_told_in_a_line(dno):
    code, out, err = dno("greet", "Ada", "--time", "2")
    assert (code, out) == (2, "")
    assert "Usage: dno greet" in err
    assert "--time" in err
    code, _, err = dno("greet", "nobody")
    assert (code, err) == (2, "dno: name: nobody is here\n")
    code, _, err = dno("greet", "bug")
    assert code == 1
    assert err.startswith('dno: the command "greet" of dno-greet failed with KeyError')
    assert "Traceback" not in err


BAD = {
    "missing module": ("import not_there", "needs the module not_there"),
    "breaks": ("1 / 0", "could not be imported: ZeroDivisionError"),
    "ends the program": ("import sys; sys.exit(0)", "could not be imported: SystemExit"),
    "no function": ("greet = 3", "is no function; its author must name one"),
    "a class": ("class greet: ...", "is no function; its author must name one"),
    "no parameters": ("def greet(x: 'NoSuchType'): ...", "parameters that Typer cannot read"),
}


@pytest.mark.parametrize(("code", "told"), BAD.values(), ids=BAD.keys())
def test_a_damaged_one_is_told_by_name_and_harms_no_other(dno, greeting, code, told):
    greeting.install("dno-bad", "[dno.v1.commands]\nbad = damaged:greet\n", "damaged", code)
    status, out, _ = dno("--help")
    assert status == 0
    assert "A command of dno-bad 1.2." in out
    assert dno("greet", "Ada")[1] == "hello Ada 1\n"
    status, out, err = dno("bad")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "dno-bad" in err
    assert '"bad"' in err
    assert told in err


def test_names_that_are_taken(dno, greeting):
    greeting.install("dno-thief", "[dno.v1.commands]\noptimize = theft:greet\n", "theft", "1 / 0")
    greeting.install(
        "dno-hello", "[dno.v1.commands]\ngreet = hello_mod:greet\n", "hello_mod", GREET
    )
    _, out, _ = dno("--help")
    assert "A command of dno-thief" not in out
    assert "Claimed by dno-greet 1.2 and dno-hello 1.2" in " ".join(out.split())
    code, out, err = dno("greet", "Ada")
    assert (code, out) == (2, "")
    assert "claimed by dno-greet 1.2 (greeting:greet) and dno-hello 1.2" in err
    assert err.endswith("; uninstall all but one\n")
    _, out, _ = dno("plugins", "list")
    rows = {line.split()[2]: line for line in out.splitlines()}
    assert rows["dno-thief"].endswith(
        "(dno has a command of that name itself; its author has to give it another)"
    )
    assert rows["dno-greet"].endswith("(claimed by several distributions; uninstall all but one)")


@pytest.mark.usefixtures("greeting")
def test_check_and_show_know_commands(dno):
    _, out, _ = dno("plugins", "check")
    assert "commands      greet                ok\n" in out
    code, _, err = dno("plugins", "show", "greet")
    assert code == 2
    assert err == 'dno: "greet" is a command; see: dno greet --help\n'


def test_in_python():
    with pytest.raises(DNOError, match='no command is called "nope"'):
        COMMANDS.load("nope")
    assert issubclass(PluginLoadError, DNOError)
