"""`dno plugins` in this process; that it imports no plugin is held in tests/unit/test_layers.py."""

from __future__ import annotations

import json
import sys

import pytest

from dno import __version__
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


def test_version(dno):
    assert dno("--version") == (0, f"dno {__version__}\n", "")


def test_list_has_every_built_in(dno):
    code, out, _ = dno("plugins", "list")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0
    assert {"ddim", "brightness", "clip", "jpeg", "permutation", "adam", "sgd", "progress", "emoji"} <= {
        r[1] for r in rows
    }
    assert ["rewards", "clip", "dno", __version__] in rows


def test_show_tells_options_types_defaults_and_meaning(dno):
    code, out, _ = dno("plugins", "show", "ddim")
    assert code == 0
    assert out.startswith(f"sampler ddim (dno {__version__})\n")
    assert "  steps: int = 50\n" in out
    assert "Denoising steps" in out
    schema = json.loads(dno("plugins", "show", "--json", "rewards/jpeg")[1])
    assert schema["properties"]["quality"]["default"] == 95


def test_show_takes_the_name_that_settles_a_clash(dno):
    assert dno("plugins", "show", "dno:ddim")[1] == dno("plugins", "show", "ddim")[1]


def test_show_of_nothing(dno):
    code, _, err = dno("plugins", "show", "nope")
    assert code == 2
    assert 'no plugin is called "nope"; installed: ' in err


def test_check_imports_all(dno):
    code, out, err = dno("plugins", "check")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) >= 14
    assert all(line.endswith(" ok") for line in out.splitlines())
