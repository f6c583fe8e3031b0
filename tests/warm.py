"""`dno` and `python` that begin at once: forks of a process that has imported what takes long.

Each use is a process of its own, with the folder, the variables, the streams and the exit code that
a shell gives and gets. It differs from a real one in what lies imported. Of a command of two
iterations nine tenths are imports, and the documentation has a hundred of them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

CLIENT: Final = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    asked = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(asked)
    server.recv(8)
    code = int(server.recv(8))
sys.exit(code if code >= 0 else 128 - code)
"""
"""What takes the place of a program; it ends as shells say that a program ended."""

SEARCH: Final = (
    *("optimize", "a black cat", "--reward", "clip", "--monitor", "brightness"),
    *("--optimizer", "best-of-n", "--steps", "2", "--iterations", "1", "--quiet"),
)
"""What the process does before it is forked."""


@contextlib.contextmanager
def warm_programs() -> Iterator[Path]:
    """A folder for `PATH` with `dno` and `python`, the latter for scripts that come on its standard
    input.
    """
    # Addresses of sockets are short, and pytest's folders are not.
    with tempfile.TemporaryDirectory() as place:
        address = Path(place) / "socket"
        for name in ("dno", "python"):
            client = Path(place) / name
            client.write_text(CLIENT.format(python=sys.executable, address=str(address)))
            client.chmod(0o755)

        command = [sys.executable, __file__, address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                assert server.stdout.readline() == "warm\n"
                yield Path(place)
            finally:
                server.kill()


@dataclass(frozen=True)
class Started:
    """A `dno` that was begun from Python, and can be killed as a client of a shell's cannot."""

    pid: int
    server: socket.socket

    def kill(self) -> None:
        """What a scheduler or a lack of memory does."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code once it has ended; negative for the signal that killed it."""
        with self.server:
            return int(self.server.recv(8))


def start(programs: Path, *arguments: object, folder: Path) -> Started:
    """Begin `dno`, which writes to this process's streams.

    Args:
        programs: of `warm_programs`.
        arguments: what follows `dno` on a command line.
        folder: the working folder.
    """
    server = socket.socket(socket.AF_UNIX)
    server.connect(str(programs / "socket"))
    told = ["dno", *map(str, arguments)], str(folder), dict(os.environ)
    asked = json.dumps(told).encode()
    socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(asked)
    return Started(int(server.recv(8)), server)


def main() -> None:
    """Be the process that is forked, and in its forks what was asked for."""
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        run_once([*SEARCH, "--out", str(run)], ["resume", str(run)])
        assert (run / "report.html").is_file()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(sys.argv[1])
        server.listen()
        print("warm", flush=True)
        client = _wait(server)

    with client:
        program, folder, variables = _asked(client)
        _wait_in_between(client)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    if Path(program[0]).name == "dno":
        _be_dno(program[1:])
    else:
        _be_a_script(sys.stdin.read())


def run_once(*commands: Sequence[str]) -> None:
    """Run `dno` here with each of these arguments, after which all that these take is imported,
    compiled and looked up, for forks too.

    Among them must be no backward pass, whose threads would not survive a fork: searches do.
    """
    from tqdm import tqdm

    from dno.cli import ending
    from dno.cli.main import main as command

    # A thread looks after bars, and would not survive a fork either.
    tqdm.monitor_interval, usual = 0, tqdm.monitor_interval
    given = sys.argv
    for arguments in commands:
        sys.argv = ["dno", *arguments]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            command()
    sys.argv = given
    tqdm.monitor_interval = usual
    # Forks have told of nothing yet.
    ending.told_of.clear()
    assert threading.active_count() == 1


def _wait(server: socket.socket) -> socket.socket:
    """Return in a fork of its own for each client."""
    # Children that have ended leave nothing behind.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        client, _ = server.accept()
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return client
        client.close()


def _asked(client: socket.socket) -> Any:
    """A client's words, folder and variables; its standard streams are this process's from now
    on.
    """
    size, streams, _, _ = socket.recv_fds(client, 8, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    with client.makefile("rb") as text:
        return json.loads(text.read(int.from_bytes(size, "big")))


def _wait_in_between(client: socket.socket) -> None:
    """Return in a fork; the client is told its number, and how it ends, however it does."""
    child = os.fork()
    if child:
        client.sendall(f"{child:8}".encode())
        _, status = os.waitpid(child, 0)
        client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)


def _be_dno(arguments: list[str]) -> None:
    from dno.cli.entry import main as entry

    sys.argv = ["dno", *arguments]
    entry()


def _be_a_script(text: str) -> None:
    sys.argv = ["-"]
    here = ModuleType("__main__")
    sys.modules["__main__"] = here
    sys.path.insert(0, "")
    exec(compile(text, "<stdin>", "exec"), vars(here))


if __name__ == "__main__":
    main()
