"""The command line in this process."""

from __future__ import annotations

import sys

import pytest

from dno.cli import main as cli


@pytest.fixture
def dno(monkeypatch, capsys):
    """Run a command: (exit code, stdout, stderr)."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dno", *map(str, args)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run
