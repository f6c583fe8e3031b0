"""Tasks, each in an environment of its own: `nox -l` lists them, `nox -s quick` runs one."""

from __future__ import annotations

import nox

nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "venv"

CODE = ["dno", "plugins", "tests", "docs", "noxfile.py"]
# What tests cost is mostly in a few long ones, so workers that are done take over from others.
PARALLEL = ["-n", "auto", "--dist", "worksteal"]


# The environment is kept: it takes longer to make than the tests do.
@nox.session(reuse_venv=True)
def quick(session: nox.Session) -> None:
    """The tests to run after each edit: no model is loaded, and one process is enough."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "not slow and not gpu and not browser", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, on all cores."""
    session.install("-e", ".[test]")
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session
def nightly(session: nox.Session) -> None:
    """The property tests, each on 500 examples where others try 20."""
    session.install("-e", ".[test]")
    session.run(
        "pytest",
        "-m",
        "hypothesis",
        *PARALLEL,
        *session.posargs,
        env={"HYPOTHESIS_PROFILE": "nightly"},
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Style, as the tests check it too."""
    session.install("ruff")
    session.run("ruff", "check", *CODE)
    session.run("ruff", "format", "--check", *CODE)


@nox.session
def types(session: nox.Session) -> None:
    """Types by mypy and pyright, side by side, as the tests check them too."""
    session.install("-e", ".[test]")
    session.run("pytest", *PARALLEL, "tests/typing", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what a run costs, and say what moved since the figures in the docs were made."""
    session.install("-e", ".[test]")
    session.run("python", "tests/benchmarks/suite.py", *session.posargs)


@nox.session(python=False)
def gpu(session: nox.Session) -> None:
    """The checks and figures that need a GPU, in ten minutes, with the torch that is installed."""
    session.run("python", "tests/gpu/figures.py", *session.posargs)


@nox.session
def floors(session: nox.Session) -> None:
    """The tests on the oldest versions that pyproject.toml allows.

    Types are checked against the newest alone.
    """
    session.install("-e", ".[test]", "-c", "tests/floors.txt")
    session.run("pytest", *PARALLEL, "--ignore", "tests/typing", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, into build/site; after `--`, "serve" shows it while you write."""
    session.install("-e", ".[docs]")
    if "serve" in session.posargs:
        session.run("zensical", "serve")
    else:
        session.run("zensical", "build", "--strict", "--clean")


@nox.session
def build(session: nox.Session) -> None:
    """The distribution, into dist/."""
    session.install("build")
    session.run("python", "-m", "build")
