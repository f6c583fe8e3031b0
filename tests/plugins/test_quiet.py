"""Loading without chatter: entered again, by several threads, and everything given back."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from dno.plugin import first_line, hearing, quiet

pytestmark = pytest.mark.slow

LIBRARIES: tuple[Any, ...] = (diffusers_logging, transformers_logging)


def state() -> list[object]:
    """All that `quiet` changes."""
    told = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in LIBRARIES]
    return [*told, list(warnings.filters)]


def is_quiet() -> bool:
    silent = [
        library.get_verbosity() == library.ERROR and not library.is_progress_bar_enabled()
        for library in LIBRARIES
    ]
    return all(silent) and warnings.filters[0][0] == "ignore"


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    """Settings that nobody would have by chance; what was there comes back after the test."""
    kept = [(library, library.get_verbosity()) for library in LIBRARIES]
    bars = [library.is_progress_bar_enabled() for library in LIBRARIES]
    diffusers_logging.set_verbosity_info()
    transformers_logging.set_verbosity_debug()
    for library in LIBRARIES:
        library.enable_progress_bar()
    yield
    for (library, verbosity), bar in zip(kept, bars, strict=True):
        library.set_verbosity(verbosity)
        if not bar:
            library.disable_progress_bar()


def test_what_there_was_comes_back() -> None:
    before = state()
    with quiet():
        assert is_quiet()
        warnings.warn("nobody hears this", stacklevel=1)
    assert state() == before
    with pytest.raises(UserWarning, match="somebody does"):
        warnings.warn("somebody does", stacklevel=1)


def test_a_progress_bar_that_was_off_stays_off() -> None:
    diffusers_logging.disable_progress_bar()
    before = state()
    with quiet():
        assert is_quiet()
    assert state() == before
    assert not diffusers_logging.is_progress_bar_enabled()


def test_it_may_be_entered_again_inside() -> None:
    before = state()
    with quiet():
        with quiet():
            assert is_quiet()
        assert is_quiet()
    assert state() == before


def test_an_error_inside_gives_everything_back() -> None:
    before = state()
    with pytest.raises(LookupError), quiet(), quiet():
        raise LookupError
    assert state() == before


def test_the_last_thread_to_leave_gives_everything_back() -> None:
    before = state()
    first_is_in = threading.Event()
    second_is_in = threading.Event()
    first_is_out = threading.Event()
    seen: list[bool] = []

    def first() -> None:
        with quiet():
            first_is_in.set()
            second_is_in.wait(10)
        first_is_out.set()

    def second() -> None:
        first_is_in.wait(10)
        with quiet():
            second_is_in.set()
            first_is_out.wait(10)
            # The one who silenced has left, and this one is still loading.
            seen.append(is_quiet())

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True]
    assert state() == before


def test_many_threads_at_once() -> None:
    before = state()
    loudly: list[bool] = []
    gate = threading.Barrier(8)

    def load() -> None:
        gate.wait(10)
        for _ in range(50):
            with quiet():
                loudly.append(not is_quiet())

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loudly) == 400
    assert not any(loudly)
    assert state() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_is_loud_where_another_thread_of_its_parent_was_quiet() -> None:
    before = state()
    is_in = threading.Event()
    done = threading.Event()

    def load() -> None:
        with quiet():
            is_in.set()
            done.wait(10)

    thread = threading.Thread(target=load)
    thread.start()
    assert is_in.wait(10)
    with warnings.catch_warnings():
        # Newer Pythons warn of forks in programs of several threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        # What filters there were is for the parent's `catch_warnings` above to undo.
        loud = not is_quiet() and state()[:2] == before[:2]
        with quiet():
            os._exit(0 if loud and is_quiet() else 1)
    done.set()
    thread.join()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


TABLE = """Model LOAD REPORT from: /somewhere
Key          | Status     |
-------------+------------+
more.weight  | UNEXPECTED |
lacks.weight | MISSING    |

Notes:
- UNEXPECTED: can be ignored when loading from different task/architecture."""


def test_what_a_library_warns_of_is_heard_once_and_nothing_is_left_changed() -> None:
    before = state()
    handlers = [list(logging.getLogger(name).handlers) for name in ("diffusers", "transformers")]
    with hearing() as heard:
        logger = diffusers_logging.get_logger("diffusers.loaders")
        for _ in range(2):
            logger.warning("Some weights were not used when initializing X: \n ['a.weight']")
        logger.warning("You have disabled the safety checker for X")
        logger.info("nobody needs this")
        transformers_logging.get_logger("transformers.modeling").warning(TABLE)
        warnings.warn("a kernel is deprecated", FutureWarning, stacklevel=1)
        warnings.warn("the file is for another model", UserWarning, stacklevel=1)
    assert heard == [
        "Some weights were not used when initializing X: ['a.weight']",
        "1 weights are MISSING in the files: lacks.weight",
        "1 weights of the files have no place in the model: more.weight",
        "the file is for another model",
    ]
    assert state() == before
    after = [list(logging.getLogger(name).handlers) for name in ("diffusers", "transformers")]
    assert after == handlers


def test_an_error_while_hearing_gives_everything_back() -> None:
    before = state()
    with pytest.raises(LookupError), hearing():
        raise LookupError
    assert state() == before


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            RuntimeError("Error(s) in loading state_dict for X:\n\tsize mismatch for a: 1 and 2."),
            "size mismatch for a: 1 and 2.",
        ),
        (ValueError("these keys are wrong: \n\n a, b"), "these keys are wrong: a, b"),
        (
            RuntimeError(
                "Weights only load failed. Re-running `torch.load` with `weights_only` set to "
                "`False` will likely succeed, but it can result in arbitrary code execution."
            ),
            "Weights only load failed.",
        ),
        (ValueError("Please set `weights_only=False`"), "ValueError"),
        (ValueError("got tensor([[1., 2.],\n [3., 4.]]) for a"), "got (a tensor)"),
        (ValueError("wrong; open an issue at https://x/issues/new"), "ValueError"),
        (ValueError("x" * 1000), f"{'x' * 240} ..."),
        (ValueError("no such file\n  at /deep/down"), "no such file"),
        (ValueError("\n\n  late  \nmore"), "late"),
        (KeyError("x"), "'x'"),
        (MemoryError(), "MemoryError"),
        (ValueError("  \n "), "ValueError"),
    ],
    ids=repr,
)
def test_the_first_line_of_what_an_error_says(error: Exception, line: str) -> None:
    assert first_line(error) == line
