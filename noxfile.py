"""Tasks: `nox` runs the tests; `nox -s lint`, `nox -s types`, `nox -s bench`, `nox -s floors`, `nox
-s build`.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "venv"
CODE = ["dno", "plugins", "tests", "docs", "noxfile.py"]


@nox.session
def tests(session: nox.Session) -> None:
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    session.install("ruff")
    session.run("ruff", "check", *CODE)
    session.run("ruff", "format", "--check", *CODE)


@nox.session
def types(session: nox.Session) -> None:
    session.install("-e", ".[test]")
    session.run("pytest", "tests/typing")


@nox.session
def bench(session: nox.Session) -> None:
    session.install("-e", ".[test]")
    for script in sorted(Path("tests/benchmarks").glob("bench_*.py")):
        session.run("python", str(script))


@nox.session
def floors(session: nox.Session) -> None:
    """The tests on the oldest versions that pyproject.toml allows; types are checked against the
    newest alone.
    """
    session.install("-e", ".[test]", "-c", "tests/floors.txt")
    session.run("pytest", "--ignore", "tests/typing", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    session.install("build")
    session.run("python", "-m", "build")
