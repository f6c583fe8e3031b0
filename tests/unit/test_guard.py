"""Whatever a plugin does: it is undone or told with its name, and ends no program."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from dno_builtin.optimizers.adam import Adam
from small_problems import brightness, climb, problem, same
from torch import Tensor

import dno
from dno.core.events import hookimpl
from dno.core.function import FunctionSampler
from dno.core.result import Outcome, Status
from dno.core.terms import ConstraintTerm, RegularizerTerm, RewardTerm, Term
from dno.guard import guarded, out_of_memory, undisturbed
from dno.plugin import (
    ConstraintConfig,
    ObserverConfig,
    OptimizerConfig,
    RegularizerConfig,
    RewardConfig,
    SamplerConfig,
)
from dno.testing.toy import ToySampler


def nothing(*tensors: Tensor) -> None:
    """A plugin that behaves."""


@dataclass(frozen=True)
class Part:
    """One kind of plugin; `deed` is done to the tensors that it is shown, whenever it is called."""

    name: str
    put: Callable[[dict[str, Any], Callable[..., None]], None]


class Watching:
    """An observer that looks at every event."""

    def __init__(self, deed: Callable[..., None]) -> None:
        self.deed = deed

    @hookimpl
    def run_started(self, event: Any) -> None:
        self.deed()

    @hookimpl
    def step_done(self, event: Any) -> None:
        self.deed(event.samples)

    @hookimpl
    def run_finished(self, event: Any) -> None:
        self.deed(event.outcome.best.samples, event.outcome.best.noise_BN)


class Standing:
    """A constraint that leaves noise where it is."""

    def __init__(self, deed: Callable[..., None]) -> None:
        self.deed = deed

    def init(self, noise_BN: Tensor) -> dict[str, Tensor]:
        kept = noise_BN.clone()
        self.deed(noise_BN)
        return {"kept": kept}

    def retract(self, noise_BN: Tensor, state: Any) -> Tensor:
        answer = noise_BN.clone()
        self.deed(noise_BN, state["kept"])
        return answer


class Climbing:
    """Adam, with a deed."""

    def __init__(self, deed: Callable[..., None]) -> None:
        self.deed = deed
        self.inner = Adam(lr=0.1).build(None)  # type: ignore[arg-type]

    def init(self, noise_BN: Tensor) -> Any:
        memory = self.inner.init(noise_BN.clone())
        self.deed(noise_BN)
        return memory

    def step(self, objective: Any, noise_BN: Tensor, state: Any) -> Any:
        answer = self.inner.step(objective, noise_BN.clone(), state)
        self.deed(noise_BN)
        return answer


def put_reward(options: dict[str, Any], deed: Callable[..., None]) -> None:
    def reward(images: Tensor, prompts: list[str]) -> Tensor:
        value_B = brightness(images.clone(), prompts)
        deed(images)
        prompts.clear()
        return value_B

    options["rewards"].insert(0, RewardTerm("bad", reward))


def put_monitor(options: dict[str, Any], deed: Callable[..., None]) -> None:
    def monitor(images: Tensor, prompts: Sequence[str]) -> Tensor:
        value_B = torch.zeros(len(prompts))
        deed(images)
        return value_B

    options["monitors"] = [Term("bad", monitor)]


def put_regularizer(options: dict[str, Any], deed: Callable[..., None]) -> None:
    def regularizer(noise_BN: Tensor, generators: Any) -> Tensor:
        penalty_B = noise_BN.clone().square().mean(1)
        deed(noise_BN)
        return penalty_B

    options["regularizers"] = [RegularizerTerm("bad", regularizer, 0.01)]


def put_report(options: dict[str, Any], deed: Callable[..., None]) -> None:
    def report(noise_BN: Tensor, generators: Any) -> Tensor:
        penalty_B = torch.zeros(len(noise_BN))
        deed(noise_BN)
        return penalty_B

    options["reports"] = [Term("bad", report)]


def put_sampler(options: dict[str, Any], deed: Callable[..., None]) -> None:
    inner = ToySampler().bind(["x", "x"], [0, 1])

    class Bad:
        draws, noise_BN = inner.draws, inner.noise_BN

        def __call__(self, noise_BN: Tensor) -> Tensor:
            images = inner(noise_BN.clone())
            deed(noise_BN)
            return images

    options["sample"] = Bad()


def put_constraint(options: dict[str, Any], deed: Callable[..., None]) -> None:
    options["constraints"] = [ConstraintTerm("bad", Standing(deed))]


def put_optimizer(options: dict[str, Any], deed: Callable[..., None]) -> None:
    options["optimizer"] = Climbing(deed)


def put_observer(options: dict[str, Any], deed: Callable[..., None]) -> None:
    options["observers"] = [Watching(deed)]


PARTS = (
    Part('reward "bad"', put_reward),
    Part('monitor "bad"', put_monitor),
    Part('regularizer "bad"', put_regularizer),
    Part('regularizer "bad"', put_report),
    Part("the sampler", put_sampler),
    Part('constraint "bad"', put_constraint),
    Part("the optimizer", put_optimizer),
    Part('observer "Watching"', put_observer),
)


def run_with(part: Part, deed: Callable[..., None]) -> Outcome:
    """A run with one part that does a deed whenever it is called."""
    options: dict[str, Any] = {"rewards": [RewardTerm("fine", brightness)]}
    part.put(options, deed)
    climber = options.pop("optimizer", None)
    observers = options.pop("observers", ())
    rewards = options.pop("rewards")
    setting = problem((0, 1), regularizer=None)
    values = {**vars(setting), "rewards": rewards, **options}
    return climb(type(setting)(**values), 3, observers, optimizer=climber)


def zero(*tensors: Tensor) -> None:
    for tensor in tensors:
        tensor.detach().zero_()


def zero_past_autograd(*tensors: Tensor) -> None:
    for tensor in tensors:
        tensor.data.zero_()
        tensor.detach().numpy()[...] = 0


def change_folder(*tensors: Tensor) -> None:
    os.chdir("/")  # noqa: PTH


def change_dtype(*tensors: Tensor) -> None:
    torch.set_default_dtype(torch.float64)


def change_device(*tensors: Tensor) -> None:
    torch.set_default_device("meta")


def change_gradients(*tensors: Tensor) -> None:
    torch.set_grad_enabled(not torch.is_grad_enabled())


def change_threads(*tensors: Tensor) -> None:
    torch.set_num_threads(torch.get_num_threads() + 1)


def change_precision(*tensors: Tensor) -> None:
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True)
    torch.set_autocast_enabled("cpu", True)


def draw(*tensors: Tensor) -> None:
    torch.manual_seed(1)
    random.seed(1)
    torch.rand(3)


DEEDS = (
    zero,
    zero_past_autograd,
    change_folder,
    change_dtype,
    change_device,
    change_gradients,
    change_threads,
    change_precision,
    draw,
)


def process() -> tuple[Any, ...]:
    """What of this process a plugin may have changed."""
    return (
        os.getcwd(),  # noqa: PTH109
        torch.get_default_dtype(),
        str(torch.get_default_device()),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_rng_state().tolist(),
        random.getstate(),
    )


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.put.__name__)
def test_what_a_plugin_does_to_the_process_or_to_what_it_is_shown_changes_nothing(
    part: Part, deed: Callable[..., None]
) -> None:
    before = process()
    well = run_with(part, nothing)
    bad = run_with(part, deed)
    assert process() == before
    assert well.status is Status.FINISHED
    assert bad.error is None
    for name in ("initial", "best", "last"):
        assert same(getattr(bad, name), getattr(well, name)), name
    assert [r.reward for r in bad.history] == [r.reward for r in well.history]


class OwnEnd(BaseException):
    """An end that no `except Exception` catches."""


ENDS = (SystemExit(0), SystemExit("bye"), GeneratorExit(), OwnEnd("all is well"))


@pytest.mark.parametrize("end", ENDS, ids=repr)
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.put.__name__)
@pytest.mark.parametrize("at", [0, 2], ids=["at first", "midway"])
def test_a_plugin_that_ends_the_program_fails_by_name(
    part: Part, end: BaseException, at: int
) -> None:
    calls = []

    def deed(*tensors: Tensor) -> None:
        calls.append(1)
        if len(calls) == at + 1:
            raise end

    told = f"{part.name} .*tried to end the program \\({type(end).__name__}"
    if at == 0:
        with pytest.raises(dno.RunError, match=told):
            run_with(part, deed).raise_for_status()
        return
    outcome = run_with(part, deed)
    assert outcome.status is Status.FAILED
    assert outcome.history
    with pytest.raises(dno.RunError, match=told):
        outcome.raise_for_status()


def test_ctrl_c_in_a_plugin_interrupts() -> None:
    calls = []

    def deed(*tensors: Tensor) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    assert run_with(PARTS[0], deed).status is Status.INTERRUPTED


BASES = {
    "sampler": SamplerConfig,
    "reward": RewardConfig,
    "monitor": RewardConfig,
    "regularizer": RegularizerConfig,
    "constraint": ConstraintConfig,
    "optimizer": OptimizerConfig,
    "observer": ObserverConfig,
}


def optimize_with(kind: str, config: Any, **options: Any) -> Any:
    """A run by configuration, one part of which is this."""
    values = {
        "sampler": FunctionSampler(torch.sigmoid, [(3, 4, 4)]),
        "reward": brightness,
        "iterations": 1,
        kind: config,
        **options,
    }
    return dno.optimize("x", **values)


def built_by(kind: str, build: Callable[[], object]) -> Any:
    def method(self: Any, ctx: Any) -> object:
        return build()

    base: Any = BASES[kind]
    return type("Odd", (base,), {"build": method, "__module__": __name__})()


@pytest.mark.parametrize("kind", BASES)
def test_what_a_build_returns_is_looked_at_before_anything_runs(kind: str) -> None:
    for wrong, got in ((None, "None"), (3, "a int")):
        told = f"its build returned {got}, which is no"
        with pytest.raises(dno.ConfigError, match=told) as caught:
            optimize_with(kind, built_by(kind, lambda wrong=wrong: wrong))  # type: ignore[misc]
        assert caught.value.at.startswith(kind)


@pytest.mark.parametrize("end", ENDS, ids=repr)
@pytest.mark.parametrize("kind", BASES)
def test_a_build_that_ends_the_program_is_told_with_its_place(
    kind: str, end: BaseException
) -> None:
    def build() -> object:
        raise end

    with pytest.raises(dno.ConfigError, match="could not be made: it tried to end the") as caught:
        optimize_with(kind, built_by(kind, build))
    assert caught.value.at.startswith(kind)


@pytest.mark.parametrize("deed", DEEDS[2:], ids=lambda deed: deed.__name__)
def test_what_a_build_does_to_the_process_is_undone(deed: Callable[..., None]) -> None:
    before = process()

    def build() -> object:
        deed()
        return brightness

    result = optimize_with("reward", built_by("reward", build))
    assert process() == before
    assert result.status is Status.FINISHED


def test_a_plugin_may_print_and_leave_a_thread(capsys: pytest.CaptureFixture[str]) -> None:
    done = threading.Event()

    def deed(*tensors: Tensor) -> None:
        print("hello")
        if not done.is_set():
            threading.Thread(target=done.wait, daemon=True).start()

    outcome = run_with(PARTS[0], deed)
    done.set()
    assert outcome.status is Status.FINISHED
    assert "hello" in capsys.readouterr().out


def test_a_folder_that_is_gone_keeps_nobody_from_running(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert run_with(PARTS[0], change_folder).status is Status.FINISHED


def test_threads_beside_one_another_undo_no_change_of_the_other() -> None:
    """One sets a default for a while, as loading a model does, while another is in a plugin."""
    inside = threading.Event()
    set_it = threading.Event()
    seen: list[torch.dtype] = []

    def other() -> None:
        with undisturbed():
            inside.set()
            set_it.wait()

    @contextlib.contextmanager
    def half() -> Iterator[None]:
        torch.set_default_dtype(torch.bfloat16)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    with undisturbed(), half():
        set_it.set()
        thread.join()
        seen.append(torch.get_default_dtype())
    assert seen == [torch.bfloat16]
    assert torch.get_default_dtype() is torch.float32


@dataclass(frozen=True)
class Shortage:
    """An error by which something says that memory ran out."""

    name: str
    error: Exception
    where: str
    config: dict[str, Any] = field(default_factory=dict)


def _allocate() -> Exception:
    """What torch says here of more than there can be."""
    try:
        torch.empty(2**60, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError("so much memory there is not")


SHORTAGES = (
    Shortage("allocator", _allocate(), "the machine ran out of memory"),
    Shortage("python", MemoryError(), "the machine ran out of memory"),
    Shortage("kernel", OSError(12, "Cannot allocate memory"), "the machine ran out of memory"),
    Shortage("gpu", torch.OutOfMemoryError("CUDA out of memory"), "the device ran out of memory"),
)
REMEDY = "recompute the sampler's steps .*sampler.memory=recompute.*fewer samples"


@pytest.mark.parametrize("shortage", SHORTAGES, ids=lambda shortage: shortage.name)
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.put.__name__)
def test_memory_that_runs_out_has_one_remedy(part: Part, shortage: Shortage) -> None:
    calls = []

    def deed(*tensors: Tensor) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise shortage.error

    outcome = run_with(part, deed)
    assert outcome.status is Status.FAILED
    assert outcome.failures == {}
    with pytest.raises(dno.RunError, match=f"{shortage.where}; {REMEDY}"):
        outcome.raise_for_status()


@pytest.mark.parametrize("shortage", SHORTAGES, ids=lambda shortage: shortage.name)
@pytest.mark.parametrize("kind", BASES)
def test_so_it_has_where_something_is_built(kind: str, shortage: Shortage) -> None:
    def build() -> object:
        raise shortage.error

    with pytest.raises(dno.ConfigError, match=f"{shortage.where}; {REMEDY}"):
        optimize_with(kind, built_by(kind, build))


def test_other_errors_are_no_lack_of_memory() -> None:
    assert not out_of_memory(RuntimeError("shape mismatch"))
    assert not out_of_memory(OSError(28, "No space left on device"))


def test_what_a_plugin_raises_on_purpose_is_as_it_was() -> None:
    def refuse() -> None:
        raise dno.ConfigError("there is no key")

    with pytest.raises(dno.ConfigError, match="^there is no key$"):
        guarded("it", refuse)
