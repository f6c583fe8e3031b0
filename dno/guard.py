"""The door that calls to plugins go through.

What a plugin does to the process is undone, what it raises is told with its name, and nothing that
it raises ends the program.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, ParamSpec, TypeVar

from dno.errors import DNOError, RunError
from dno.wording import said

R = TypeVar("R")
P = ParamSpec("P")

_CPU: Final = "DefaultCPUAllocator"
"""What torch calls the part of it that could not have more of a machine's memory."""

MEMORY: Final = (
    "recompute the sampler's steps instead of keeping them (sampler.memory=recompute), or optimise "
    "fewer samples side by side; `dno plan` says what would free how much"
)
"""What to do where memory runs out."""


class PluginError(RunError):
    """A plugin raised what it did not mean to; that is its cause."""


@contextlib.contextmanager
def collecting_later() -> Iterator[None]:
    """Python looks for no garbage inside; for importing large libraries. Also a decorator.

    They leave a million objects, none of them garbage, through which it would go again and again: a
    fifth of what an import of diffusers costs. Afterwards they count as old.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            # There and back, all that is alive becomes old, and is not gone through at once after
            # all. Where somebody keeps objects there, these stay.
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def guarded(who: str, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What a plugin's function returns; the process is as it was before.

    Args:
        who: the plugin, as messages call it: `reward "clip"`.
        call: its function.
        args, kwargs: what to call it with.

    Raises:
        DNOError: the plugin raised it on purpose.
        PluginError: the plugin raised anything else, which is the cause.
        KeyboardInterrupt: the process was asked to stop.
        BaseException: memory ran out; see `out_of_memory`.
    """
    try:
        with undisturbed():
            return call(*args, **kwargs)
    except (DNOError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if out_of_memory(error):
            raise
        raise failure(who, error) from error


def failure(who: str, error: BaseException) -> PluginError:
    """What a plugin raised, as an error with its name."""
    return PluginError(f"{who} {what_happened(error)}")


def what_happened(error: BaseException) -> str:
    """What a plugin did, as what follows its name in a sentence."""
    kind = type(error).__name__
    if isinstance(error, Exception):
        return f"failed with {kind}: {said(error)}"
    # SystemExit and its like would end a program with the plugin's own exit code.
    told = f"{kind}: {said(error)}" if str(error) else kind
    return f"tried to end the program ({told}); it must raise an Exception where it cannot go on"


def as_error(error: BaseException) -> DNOError:
    """Whatever ended a run, as an error that says how to go on."""
    if isinstance(error, DNOError):
        return error
    if out_of_memory(error):
        told = RunError(memory_ran_out(error))
    else:
        told = RunError(f"the run {what_happened(error)}")
    told.__cause__ = error
    return told


def out_of_memory(error: BaseException) -> bool:
    """Whether the device or the machine had no memory left for what was asked."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _CPU in str(error)


def memory_ran_out(error: BaseException) -> str:
    """What to say of such an error."""
    torch = sys.modules.get("torch")
    where = "the machine"
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        where = "the device"
    return f"{where} ran out of memory; {MEMORY}"


_lock = threading.Lock()
_inside: dict[int, int] = {}
"""How deep each thread is in `undisturbed`."""


@contextlib.contextmanager
def undisturbed(*, randomness: bool = False) -> Iterator[None]:
    """Afterwards the working folder and torch's settings are what they were.

    What belongs to the whole process is left alone while other threads are inside, too: nobody can
    tell whose change it is.

    Args:
        randomness: whether the global random generators are put back, too.
    """
    alone = _enter()
    folder = _working_folder()
    settings = _settings()
    generators = _generators() if randomness else {}
    try:
        yield
    finally:
        alone = _leave() and alone
        if alone and folder is not None and _working_folder() != folder:
            with contextlib.suppress(OSError):
                os.chdir(folder)
        _restore(settings, alone)
        if alone:
            for put, state in generators.items():
                put(state)


def _enter() -> bool:
    """Whether no other thread is inside."""
    me = threading.get_ident()
    with _lock:
        _inside[me] = _inside.get(me, 0) + 1
        return len(_inside) == 1


def _leave() -> bool:
    """Whether no other thread is inside."""
    me = threading.get_ident()
    with _lock:
        alone = len(_inside) <= 1
        depth = _inside.pop(me, 1) - 1
        if depth:
            _inside[me] = depth
        return alone


def _forked() -> None:
    """In a child process, where no thread goes on but the one that forked."""
    global _lock
    _lock = threading.Lock()
    for thread in set(_inside) - {threading.get_ident()}:
        del _inside[thread]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _working_folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109
    except OSError:  # It is gone.
        return None


_OF_A_THREAD: Final = ("grad", "autocast")
"""Those of them that each thread has for itself."""


def _settings() -> dict[str, Any] | None:
    """Settings of torch that decide what plugins compute beside one another; None without torch."""
    torch: Any = sys.modules.get("torch")
    # While torch is being imported it has not all of its names.
    if torch is None or not hasattr(torch, "get_float32_matmul_precision"):
        return None
    return {
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "device": torch.get_default_device(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "precision": torch.get_float32_matmul_precision(),
    }


def _fresh() -> dict[str, Any]:
    """Those of a process in which torch was imported just now."""
    import torch

    return {
        "dtype": torch.float32,
        "grad": True,
        "threads": torch.get_num_threads(),
        "device": torch.device("cpu"),
        "autocast": (False, False),
        "deterministic": (False, False),
        "precision": "highest",
    }


def _restore(before: dict[str, Any] | None, alone: bool) -> None:
    """Put settings back, those of the whole process only where no other thread is inside."""
    now = _settings()
    if now is None or now == before:
        return
    right = _fresh() if before is None else before
    for name, value in now.items():
        if right[name] != value and (alone or name in _OF_A_THREAD):
            _put_back(name, right[name])


def _put_back(name: str, value: Any) -> None:
    torch: Any = sys.modules["torch"]
    match name:
        case "dtype":
            torch.set_default_dtype(value)
        case "grad":
            torch.set_grad_enabled(value)
        case "threads":
            torch.set_num_threads(value)
        case "device":
            torch.set_default_device(None if value.type == "cpu" else value)
        case "autocast":
            for device, on in zip(("cpu", "cuda"), value, strict=True):
                torch.set_autocast_enabled(device, on)
        case "deterministic":
            torch.use_deterministic_algorithms(value[0], warn_only=value[1])
        case "precision":
            torch.set_float32_matmul_precision(value)


def _generators() -> dict[Callable[[Any], object], Any]:
    """The state of each global random generator, by what puts it back."""
    states: dict[Callable[[Any], object], Any] = {random.setstate: random.getstate()}
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None and hasattr(numpy, "set_state"):
        states[numpy.set_state] = numpy.get_state()
    torch: Any = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_rng_state"):
        states[torch.set_rng_state] = torch.get_rng_state()
    return states
