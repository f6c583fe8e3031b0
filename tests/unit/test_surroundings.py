"""A clean room, who may be in it together, and what it gives back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dno
from dno.core.surroundings import alone, clean_room, together

WAIT = 20


def state() -> dict[str, Any]:
    """All that a clean room may change."""
    kinds = ("cpu", "cuda")
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": [torch.is_autocast_enabled(kind) for kind in kinds],
        "autocast dtype": [torch.get_autocast_dtype(kind) for kind in kinds],
        "onednn": torch.backends.mkldnn.enabled,
        "precision": torch.get_float32_matmul_precision(),
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "math": torch.backends.cuda.math_sdp_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "filters": list(warnings.filters),
        "random": torch.get_rng_state().tolist(),
    }


@contextlib.contextmanager
def setting(read: Callable[[], Any], write: Callable[[Any], None], value: Any) -> Iterator[None]:
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


def default_dtype(dtype: torch.dtype) -> contextlib.AbstractContextManager[None]:
    return setting(torch.get_default_dtype, torch.set_default_dtype, dtype)


def precision() -> contextlib.AbstractContextManager[None]:
    read, write = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    return setting(read, write, "medium")


def default_device() -> contextlib.AbstractContextManager[None]:
    return setting(lambda: None, torch.set_default_device, "meta")


def deterministic() -> contextlib.AbstractContextManager[None]:
    read = torch.are_deterministic_algorithms_enabled
    return setting(read, torch.use_deterministic_algorithms, True)


def without_flash() -> contextlib.AbstractContextManager[None]:
    cuda = torch.backends.cuda
    return setting(cuda.flash_sdp_enabled, cuda.enable_flash_sdp, False)


def without_onednn() -> contextlib.AbstractContextManager[None]:
    mkldnn: Any = torch.backends.mkldnn
    return setting(lambda: mkldnn.enabled, lambda on: setattr(mkldnn, "enabled", on), False)


SURROUNDINGS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device": default_device,
    "device": lambda: torch.device("meta"),
    "deterministic": deterministic,
    "precision": precision,
    "no flash": without_flash,
    "no oneDNN": without_onednn,
    "saved on the CPU": torch.autograd.graph.save_on_cpu,
}


class Picture:
    """A sampler with all that surroundings may change: products, convolutions, attention."""

    def __init__(self) -> None:
        self.mix = nn.Linear(64, 64)
        self.draw = nn.Conv2d(4, 3, 3, padding=1)

    def __call__(self, noise_B8hw: Tensor) -> Tensor:
        # Made afresh at each call, as schedulers do.
        scale = torch.linspace(0.5, 1.0, 4)[:, None] * torch.ones(64)
        rows = self.mix(noise_B8hw.flatten(2) * scale)
        seen = torch.nn.functional.scaled_dot_product_attention(rows, rows, rows)
        return self.draw(seen.view_as(noise_B8hw)).sigmoid()


def bits(sampler: dno.FunctionSampler) -> bytes:
    """Of all that a short run computed."""
    result = dno.optimize("any", reward="contrast", sampler=sampler, iterations=2, seed=1, batch=2)
    best = result.best
    values = repr((result.history[-1].reward, result.history[-1].log_p)).encode()
    return best.noise_BN.numpy().tobytes() + best.samples.numpy().tobytes() + values


@pytest.fixture(scope="module")
def sampler() -> dno.FunctionSampler:
    # Imports, once, what has filters of warnings of its own.
    with deterministic(), torch.random.fork_rng():
        torch.manual_seed(0)
        return dno.FunctionSampler(Picture(), draws=[(4, 8, 8)])


@pytest.fixture(scope="module")
def usual(sampler: dno.FunctionSampler) -> bytes:
    return bits(sampler)


@pytest.mark.parametrize("surrounding", SURROUNDINGS.values(), ids=SURROUNDINGS.keys())
def test_a_run_has_the_same_bits_whatever_surrounds_it_and_changes_nothing(
    surrounding: Callable[[], contextlib.AbstractContextManager[Any]],
    sampler: dno.FunctionSampler,
    usual: bytes,
) -> None:
    outside = state()
    with surrounding():
        before = state()
        assert bits(sampler) == usual
        assert state() == before
    assert state() == outside


@pytest.mark.parametrize("surrounding", SURROUNDINGS.values(), ids=SURROUNDINGS.keys())
def test_what_is_loaded_under_one_is_run_without_it(
    surrounding: Callable[[], contextlib.AbstractContextManager[Any]],
) -> None:
    values: list[bytes] = []
    for around in (contextlib.nullcontext, surrounding):
        with around():
            session = dno.load(
                reward="contrast",
                sampler=dno.FunctionSampler(torch.tanh, draws=[(3, 8, 8)]),
                iterations=2,
            )
        values.append(session.optimize("any").best.noise_BN.numpy().tobytes())
    assert values[0] == values[1]


def test_all_at_once_and_a_room_in_a_room() -> None:
    with contextlib.ExitStack() as stack:
        for surrounding in SURROUNDINGS.values():
            stack.enter_context(surrounding())
        before = state()
        with clean_room():
            first = state()
            with clean_room():
                assert state() == first
            assert state() == first
            assert first["dtype"] == torch.float32
            assert first["device"] == torch.device("cpu")
            assert first["grad"]
            assert not first["inference"]
            assert not any(first["autocast"])
        assert state() == before


def test_an_error_inside_gives_everything_back() -> None:
    before = state()
    with pytest.raises(LookupError), clean_room(), clean_room():
        raise LookupError
    assert state() == before


def test_what_is_changed_inside_is_put_back() -> None:
    before = state()
    with clean_room():
        torch.set_default_dtype(torch.float64)
        warnings.simplefilter("ignore")
    assert state() == before


def in_threads(*jobs: Callable[[], None]) -> None:
    failures: list[BaseException] = []

    def guarded(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=[job], daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive(), "the threads wait for one another"
    for failure in failures:
        raise failure


def test_the_last_to_leave_gives_back_what_holds_for_all() -> None:
    second_is_in = threading.Event()
    first_is_out = threading.Event()
    first_is_in = threading.Event()

    def first() -> None:
        with clean_room():
            first_is_in.set()
            assert second_is_in.wait(WAIT)
        first_is_out.set()

    def second() -> None:
        assert first_is_in.wait(WAIT)
        with clean_room():
            second_is_in.set()
            assert first_is_out.wait(WAIT)
            assert torch.get_default_dtype() == torch.float32

    with default_dtype(torch.float64), without_flash():
        before = state()
        in_threads(first, second)
        assert state() == before


def test_warnings_that_threads_tangle_are_untangled() -> None:
    steps = [threading.Event() for _ in range(3)]

    def first() -> None:
        with clean_room():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                steps[0].set()
                assert steps[1].wait(WAIT)
            steps[2].set()

    def second() -> None:
        assert steps[0].wait(WAIT)
        with clean_room(), warnings.catch_warnings():
            steps[1].set()
            assert steps[2].wait(WAIT)

    before = state()
    in_threads(first, second)
    assert state() == before


def test_four_runs_at_once_have_the_bits_of_one(sampler: dno.FunctionSampler, usual: bytes) -> None:
    before = state()
    found: list[bytes] = []
    with default_dtype(torch.float64):
        in_threads(*[lambda: found.append(bits(sampler))] * 4)
    assert found == [usual] * 4
    assert state() == before


def test_one_who_is_alone_is_alone() -> None:
    seen: list[str] = []

    def load() -> None:
        for _ in range(20):
            with alone():
                seen.append("in")
                time.sleep(1e-4)
                seen.append("out")

    def iterate() -> None:
        for _ in range(20):
            with together():
                seen.append("step")
                time.sleep(1e-4)

    in_threads(load, iterate, load, iterate)
    for i, what in enumerate(seen):
        if what == "in":
            assert seen[i + 1] == "out"
    assert seen.count("in") == seen.count("step") == 40


def test_those_who_are_together_do_not_wait_for_one_another() -> None:
    barrier = threading.Barrier(3)

    def iterate() -> None:
        with together():
            barrier.wait(WAIT)

    in_threads(iterate, iterate, iterate)


def test_rewards_may_load_models_in_their_iterations() -> None:
    barrier = threading.Barrier(2)

    def iterate() -> None:
        with together():
            barrier.wait(WAIT)
            with alone(), together(), alone():
                pass

    in_threads(iterate, iterate)


def test_inside_an_event_loop_and_beside_it(sampler: dno.FunctionSampler, usual: bytes) -> None:
    """As a notebook's cell and a server's handler are."""

    async def cell() -> None:
        assert bits(sampler) == usual
        beside = [asyncio.to_thread(bits, sampler) for _ in range(2)]
        assert await asyncio.gather(*beside) == [usual] * 2

    before = state()
    asyncio.run(cell())
    assert state() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_child_runs_as_its_parent_did(
    sampler: dno.FunctionSampler, usual: bytes, threads: int
) -> None:
    """OpenMP's threads are not there after a fork, and whoever waits for them waits for ever."""
    with setting(torch.get_num_threads, torch.set_num_threads, threads):
        assert bits(sampler) == usual
        with in_child(lambda: bits(sampler) == usual and torch.get_num_threads() == threads):
            pass


@contextlib.contextmanager
def in_child(check: Callable[[], bool]) -> Iterator[None]:
    """A forked child in which something holds."""
    with warnings.catch_warnings():
        # Newer Pythons warn of forks in programs of several threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        os._exit(0 if check() else 1)
    yield

    deadline = time.monotonic() + 3 * WAIT
    ended, status = os.waitpid(child, os.WNOHANG)
    while not ended and time.monotonic() < deadline:
        time.sleep(0.05)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child waits for ever")
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_finds_the_rooms_of_other_threads_empty() -> None:
    inside = threading.Event()
    done = threading.Event()

    def other() -> None:
        with clean_room(), together():
            inside.set()
            done.wait(WAIT)

    with default_dtype(torch.float64):
        before = state()
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(WAIT)
        assert torch.get_default_dtype() == torch.float32
        with in_child(lambda: is_empty(before)):
            done.set()
            thread.join()


def is_empty(before: dict[str, Any]) -> bool:
    now = {name: value for name, value in state().items() if name != "filters"}
    with clean_room(), alone():
        ready = torch.get_default_dtype() == torch.float32
    return ready and all(value == before[name] for name, value in now.items())
