"""TF32: what a run sets for its process, and gives back however it ends."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import dno
from dno.core.surroundings import clean_room, tf32
from dno.errors import RunError

matmul: Any = torch.backends.cuda.matmul
cudnn: Any = torch.backends.cudnn
has_precisions = pytest.mark.skipif(
    not hasattr(cudnn, "conv"), reason="this version of torch has the older settings alone"
)
SAMPLER = dno.FunctionSampler(torch.sigmoid, draws=[(3, 8, 8)])
OF_CONVOLUTIONS = ("conv", "rnn")


def state() -> dict[str, Any]:
    """All settings of float32 on any device, as both generations of names have them."""
    found = {
        "products": matmul.allow_tf32,
        "precision": torch.get_float32_matmul_precision(),
        "convolutions": cudnn.allow_tf32,
    }
    if hasattr(cudnn, "conv"):
        found |= {name: getattr(cudnn, name).fp32_precision for name in OF_CONVOLUTIONS}
        found["own"] = matmul.fp32_precision
        found["cpu"] = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    return found


@contextlib.contextmanager
def given_back() -> Iterator[None]:
    """A test's own settings, put back by the older names first."""
    before = state()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before["precision"])
        cudnn.allow_tf32 = before["convolutions"]
        if hasattr(cudnn, "conv"):
            matmul.fp32_precision = before["own"]
            torch.backends.mkldnn.matmul.fp32_precision = before["cpu"]  # type: ignore[attr-defined]


def is_on() -> bool:
    return bool(matmul.allow_tf32) and bool(cudnn.allow_tf32)


def precision(level: str) -> Callable[[], None]:
    return lambda: torch.set_float32_matmul_precision(level)


def no_convolutions() -> None:
    cudnn.allow_tf32 = False


def products_by_the_newer_name() -> None:
    matmul.fp32_precision = "ieee"


CALLERS: dict[str, Callable[[], None]] = {
    "torch's own": lambda: None,
    "high": precision("high"),
    "medium": precision("medium"),
    "highest": precision("highest"),
    "no convolutions": no_convolutions,
    "newer name": products_by_the_newer_name,
}


@pytest.mark.parametrize("caller", CALLERS.values(), ids=CALLERS.keys())
def test_it_is_on_inside_and_as_the_caller_had_it_after(caller: Callable[[], None]) -> None:
    if caller is products_by_the_newer_name and not hasattr(cudnn, "conv"):
        pytest.skip("this version of torch has the older settings alone")
    with given_back():
        caller()
        before = state()
        with clean_room(), tf32():
            assert is_on()
            with tf32():
                assert is_on()
            assert is_on()
        assert state() == before
        with pytest.raises(LookupError), tf32():
            raise LookupError
        assert state() == before


@has_precisions
def test_a_cpu_computes_as_before() -> None:
    before = state()["cpu"]
    with tf32():
        assert state()["cpu"] == before


class Looking:
    """A reward that notes whether TF32 is on, and ends the run as it is told to."""

    __name__ = "looking"

    def __init__(self, end: type[BaseException] | None = None) -> None:
        self.seen: list[bool] = []
        self.end = end

    def __call__(self, images, prompts):
        self.seen.append(is_on())
        if self.end is not None and len(self.seen) > 1:
            raise self.end
        return images.mean(dim=(1, 2, 3))


def optimize(reward: Looking, *, on: bool, **options: Any) -> dno.Result:
    return dno.optimize(
        "any", reward=reward, sampler=SAMPLER, iterations=2, settings={"tf32": on}, **options
    )


@pytest.mark.parametrize("end", [None, RuntimeError, KeyboardInterrupt])
def test_a_run_has_it_to_its_end_whatever_that_is(
    end: type[BaseException] | None, tmp_path: Any
) -> None:
    before = state()
    reward = Looking(end)
    with contextlib.suppress(RunError):
        optimize(reward, on=True, out=tmp_path / "run")
    assert reward.seen
    assert all(reward.seen)
    assert state() == before
    assert "tf32 = true" in (tmp_path / "run" / "run.toml").read_text()


def test_a_run_without_it_leaves_the_callers_choice() -> None:
    with given_back():
        torch.set_float32_matmul_precision("high")
        reward = Looking()
        optimize(reward, on=False)
        assert all(reward.seen)
    reward = Looking()
    optimize(reward, on=False)
    assert not any(reward.seen)


def test_the_last_thread_to_leave_gives_it_back() -> None:
    before = state()
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with tf32():
            entered.set()
            leave.wait(20)

    thread = threading.Thread(target=other)
    with tf32():
        thread.start()
        assert entered.wait(20)
    assert is_on()
    leave.set()
    thread.join(20)
    assert state() == before


def test_a_device_without_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dno"):
        optimize(Looking(), on=True, device="cpu")
    assert [record.getMessage() for record in caplog.records] == [
        "tf32: this cpu has none, and computes as without it"
    ]
