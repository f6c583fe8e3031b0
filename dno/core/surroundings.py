"""The same torch for every run, whatever state its process is in; afterwards all is as it was.

Three things surround a run:

- what holds for its thread alone, such as `torch.no_grad`, `torch.inference_mode`, autocast or a
  default device;
- what holds for the whole process, such as the default dtype or what oneDNN may round to;
- other threads, which may be loading models: libraries then patch classes and change the default
  dtype for a while, for everybody.

`clean_room` answers the first two, `alone` and `together` the third.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final

import torch


@contextlib.contextmanager
def clean_room() -> Iterator[None]:
    """Torch as a fresh process has it, inside; what the caller had, after.

    Gradients are recorded, autocast is off, new tensors are float32 on the CPU, and a CPU computes
    float32 in float32 and by its usual kernels. Entered again inside, and by several threads at
    once, it gives back what holds for the whole process when the last one leaves. Deterministic
    algorithms, anomaly detection and the number of threads stay the caller's; so do digits traded
    for speed on a GPU. In a forked child there is one thread: OpenMP waits for ever for those that
    its parent had. Also a decorator.
    """
    settings = [_DTYPE, _WARNINGS, *_OF_CPUS]
    # Where a GPU is in use these are its settings first of all, and the caller's choice.
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        settings += _OF_ALL_DEVICES
    if _traffic.is_child:
        settings.append(_THREADS)
    with ExitStack() as undo:
        for setting in settings:
            undo.enter_context(setting.held())

        undo.enter_context(torch.inference_mode(False))
        undo.enter_context(torch.enable_grad())
        for kind in _AUTOCAST:
            if torch.is_autocast_enabled(kind):
                undo.enter_context(torch.autocast(kind, enabled=False))
        # A function mode costs Python time at every operation, so only where there is a need.
        if torch.get_default_device().type != "cpu":
            undo.enter_context(torch.device("cpu"))
        yield


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """No other thread is inside `alone` or `together`: for loading models and posing problems.

    A thread that is in `together` already does not wait for those that are there with it. Also a
    decorator.
    """
    with _traffic.alone():
        yield


@contextlib.contextmanager
def together() -> Iterator[None]:
    """No other thread is inside `alone`; any number may be here: for one iteration of a run."""
    with _traffic.together():
        yield


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """Products and convolutions of float32 may be computed in TF32, by a GPU that has it.

    TF32 has float32's range and 10 bits of its 23 behind the point. The setting is the whole
    process's: while any thread is in here it holds for all of them, and the last one to leave gives
    back what was before.
    """
    with ExitStack() as undo:
        for setting in _OF_TF32:
            undo.enter_context(setting.held())
        yield


_AUTOCAST: Final = ("cpu", "cuda", "mps", "xpu")


class _Setting:
    """A setting of the whole process that has one value while any thread wants it so.

    Args:
        name: for whoever looks at it in a debugger.
        read: what it is.
        write: sets it.
        wanted: what it is to be.
    """

    def __init__(
        self, name: str, read: Callable[[], Any], write: Callable[[Any], None], wanted: Any
    ) -> None:
        self.name = name
        self._read = read
        self._write = write
        self._wanted = wanted
        self._inside: list[int] = []
        """The thread of each one who wants it."""
        self._kept: Any = None
        """What it was before the first of them."""
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """It is as wanted."""
        me = threading.get_ident()
        with self._lock:
            if not self._inside:
                self._kept = self._read()
                if self._kept != self._wanted:
                    self._write(self._wanted)
            self._inside.append(me)
        try:
            yield
        finally:
            with self._lock:
                self._inside.remove(me)
                if not self._inside:
                    self._give_back()

    def forked(self) -> None:
        """In a child process, where no thread goes on but the one that forked."""
        self._lock = threading.Lock()
        me = threading.get_ident()
        mine = [thread for thread in self._inside if thread == me]
        if self._inside and not mine:
            self._give_back()
        self._inside = mine

    def _give_back(self) -> None:
        # Compared, since a plugin may have changed it meanwhile.
        if self._read() != self._kept:
            self._write(self._kept)
        self._kept = None


class _Filters(_Setting):
    """The filters of warnings, which threads that leave in another order than they came tangle."""

    def __init__(self) -> None:
        self._catching: warnings.catch_warnings[None] | None = None
        super().__init__("warnings", lambda: self._catching, self._catch, wanted=True)

    def _catch(self, wanted: object) -> None:
        if wanted:
            self._catching = warnings.catch_warnings()
            self._catching.__enter__()
        elif self._catching is not None:
            self._catching.__exit__(None, None, None)
            self._catching = None


def _flag(holder: Any, name: str, wanted: Any) -> _Setting:
    """A setting that is an attribute."""
    return _Setting(
        name,
        lambda: getattr(holder, name),
        lambda value: setattr(holder, name, value),
        wanted,
    )


def _attention(name: str) -> _Setting:
    """Whether attention may be computed by kernels of that name; the CPU asks CUDA's settings."""
    cuda = torch.backends.cuda
    read = getattr(cuda, f"{name}_sdp_enabled")
    return _Setting(name, read, getattr(cuda, f"enable_{name}_sdp"), wanted=True)


_DTYPE: Final = _Setting(
    "default dtype", torch.get_default_dtype, torch.set_default_dtype, torch.float32
)
_WARNINGS: Final = _Filters()
_THREADS: Final = _Setting("threads", torch.get_num_threads, torch.set_num_threads, 1)
_OF_CPUS: Final = [_flag(torch.backends.mkldnn, "enabled", True)]
_OF_ALL_DEVICES: Final = [_attention("flash"), _attention("math")]

_mkldnn: Any = torch.backends.mkldnn
if hasattr(_mkldnn, "matmul"):
    # To what a CPU may round float32 in products and in convolutions: to nothing else.
    _OF_CPUS.append(_flag(_mkldnn.matmul, "fp32_precision", "ieee"))
    _OF_CPUS.append(_flag(_mkldnn.conv, "fp32_precision", "ieee"))
else:
    # Older versions of torch have one setting for all devices.
    _OF_ALL_DEVICES.append(
        _Setting(
            "matmul precision",
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
            "highest",
        )
    )


_cuda: Any = torch.backends.cuda
_cudnn: Any = torch.backends.cudnn


def _write_matmul(precision: Any) -> None:
    # By the older name first: torch refuses to read it where the two disagree.
    _cuda.matmul.allow_tf32 = precision == "tf32"
    _cuda.matmul.fp32_precision = precision


def _write_conv(precision: Any) -> None:
    _cudnn.allow_tf32 = precision == "tf32"
    _cudnn.conv.fp32_precision = precision


_OF_TF32: Final = [_flag(_cuda.matmul, "allow_tf32", True), _flag(_cudnn, "allow_tf32", True)]

if hasattr(_cudnn, "conv"):
    # Newer versions of torch have a name for each precision.
    _OF_TF32[:] = [
        _Setting("tf32 products", lambda: _cuda.matmul.fp32_precision, _write_matmul, "tf32"),
        _Setting("tf32 convolutions", lambda: _cudnn.conv.fp32_precision, _write_conv, "tf32"),
    ]


class _Traffic:
    """A lock that many may hold together, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together: dict[int, int] = {}
        """How deep each thread is in `together`."""
        self._alone: int | None = None
        """The thread that is alone."""
        self._depth = 0
        self._waiting = 0
        """Threads that want to be alone."""
        self.is_child = False
        """Whether this process was forked after torch was imported."""

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        me = threading.get_ident()
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: self._may_be_alone(me))
            finally:
                self._waiting -= 1
            self._alone = me
            self._depth += 1
        try:
            yield
        finally:
            with self._changed:
                self._depth -= 1
                if not self._depth:
                    self._alone = None
                self._changed.notify_all()

    def _may_be_alone(self, me: int) -> bool:
        if self._alone is not None:
            return self._alone == me
        # A reward may load a model during its iteration: to wait for the other runs' iterations
        # would be to wait for ever, where one of them does so too.
        return not self._together or me in self._together

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: self._may_be_together(me))
            self._together[me] = self._together.get(me, 0) + 1
        try:
            yield
        finally:
            with self._changed:
                self._together[me] -= 1
                if not self._together[me]:
                    del self._together[me]
                self._changed.notify_all()

    def _may_be_together(self, me: int) -> bool:
        if me in self._together or self._alone == me:
            return True
        # Those who wait to load go first: iterations follow one another without end.
        return self._alone is None and not self._waiting

    def forked(self) -> None:
        """In a child process, where no thread goes on but the one that forked."""
        me = threading.get_ident()
        self.is_child = True
        self._changed = threading.Condition()
        self._waiting = 0
        self._together = {thread: n for thread, n in self._together.items() if thread == me}
        if self._alone != me:
            self._alone = None
            self._depth = 0


_traffic: Final = _Traffic()


def _forked() -> None:
    for setting in (_DTYPE, _WARNINGS, _THREADS, *_OF_CPUS, *_OF_ALL_DEVICES, *_OF_TF32):
        setting.forked()
    _traffic.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
