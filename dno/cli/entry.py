"""Where the `dno` command begins and ends: signals, standard streams, what plugins leave behind.

It imports nothing slow, so that a signal is minded from the first line on.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED: Final = 130
"""What shells report of a program that Ctrl-C ended."""

REQUESTS: Final = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C, a scheduler's request to end, a terminal that closes: what was reached is kept."""

NAMED_AFTER: Final = 2.0
"""Seconds that a thread may go on after the last line before it is told of."""
LEFT_AFTER: Final = 30.0
"""Seconds after which it is waited for no longer."""


def main() -> None:
    """Run the command line, and end with one of the exit codes in `dno.cli.ending`."""
    process = Process()
    try:
        process.mind_signals()
        process.run()
    except KeyboardInterrupt:
        # A second one, on the way out.
        os._exit(INTERRUPTED)


def _say(text: str) -> None:
    """Print on standard error, as all else is printed."""
    from dno.cli.say import say

    say(text, err=True)


class Process:
    """This process, from its first line to its last."""

    def __init__(self) -> None:
        self.code = 0
        self.asked = False
        """Whether somebody asked it to end."""
        self.number: int = signal.SIGINT
        """By which signal."""
        self.ending = False
        """Whether all is done, so that a request can be met at once."""

    def mind_signals(self) -> None:
        """Have requests to end raise `KeyboardInterrupt`, those that are ignored left out."""
        for name in REQUESTS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.request)
        sys.unraisablehook = self.unraisable

    def request(self, number: int, frame: FrameType | None) -> None:
        """What a signal does."""
        self.asked = True
        self.number = number
        if self.ending:
            os._exit(INTERRUPTED)
        raise KeyboardInterrupt

    def unraisable(self, what: sys.UnraisableHookArgs) -> None:
        """Ask again where Python drops a request: one that comes while an object is finalised."""
        if not isinstance(what.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(what)
            return
        import _thread
        import threading

        # A little later and from outside, or it would be raised in here.
        again = threading.Timer(0.01, _thread.interrupt_main, [self.number])
        again.daemon = True
        again.start()

    def run(self) -> None:
        """Do what was asked for, and end."""
        import atexit

        # Registered first, and so called last.
        atexit.register(self.leave)
        try:
            from dno.cli import streams

            streams.hold()

            from dno.cli.main import main as command

            command()
        except SystemExit as stop:
            self.code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        except BaseException as error:
            # A request may come out of a library as an error of another kind.
            if not self.asked and not isinstance(error, KeyboardInterrupt):
                self.code = 1
                import traceback

                _say("".join(traceback.format_exception(error)).rstrip("\n"))
            else:
                self.code = INTERRUPTED
        self.end()

    def end(self) -> None:
        """Tell of what could not be told, and of threads that go on."""
        self.ending = True
        if self.asked and self.code:
            self.code = INTERRUPTED
        streams: Any = sys.modules.get("dno.cli.streams")
        lost = streams.lost_output() if streams is not None else None
        ending: Any = sys.modules.get("dno.cli.ending")
        kept = [str(folder) for folder in ending.told_of] if ending is not None else []
        if lost is not None:
            self._tell_of_lost_output(lost, kept)
        elif self.code == INTERRUPTED and not kept:
            _say("dno: interrupted")

        import threading

        threading.Thread(target=self._mind_threads, name="dno-end", daemon=True).start()
        sys.exit(self.code)

    def _tell_of_lost_output(self, lost: OSError, kept: list[str]) -> None:
        """Say where runs are whose end could not be printed."""
        # Without a run, a reader that closes has seen enough, as in `dno plugins list | head`.
        if kept or not isinstance(lost, BrokenPipeError):
            where = f"; the run is kept in {' and '.join(kept)}" if kept else ""
            reason = lost.strerror or str(lost)
            _say(f"dno: standard output cannot be written: {reason}{where}")
        self.code = self.code or 1

    def _mind_threads(self) -> None:
        """Name the threads that keep this process from ending; after a while, end without them."""
        import threading
        import time

        def going_on() -> list[str]:
            main = threading.main_thread()
            threads = [t for t in threading.enumerate() if t is not main and not t.daemon]
            return [thread.name for thread in threads]

        time.sleep(NAMED_AFTER)
        if not going_on():
            return
        names = ", ".join(going_on())
        _say(
            f"dno: all is done, but a plugin left threads that go on ({names}); they are waited "
            f"for {LEFT_AFTER:.0f} s more"
        )
        end = time.monotonic() + LEFT_AFTER
        while time.monotonic() < end:
            if not going_on():
                return
            time.sleep(0.1)
        os._exit(self.code)

    def leave(self) -> None:
        """End, past the teardown of libraries, in which a signal would still be felt."""
        if not self.ending:  # Something else ends the process, such as a fork's own exit.
            return
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(self.code)
