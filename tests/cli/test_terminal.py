"""What a run shows on a terminal, and where there is none."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
pty = pytest.importorskip("pty")

SCRIPT = """
import sys
from dno.cli import streams
streams.hold()
from dno.cli.main import main
sys.argv = ["dno", *sys.argv[1:]]
main()
"""
RUN = ["optimize", "a cat", "--reward", "loud", "--iterations", "3", "--steps", "2", "--out", "run"]


def on_terminal(command: list[str], folder: Path, columns: int) -> str:
    """What a command writes that has a terminal of so many columns."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execve(command[0], command, {**os.environ, "HF_HUB_OFFLINE": "1"})

    import fcntl
    import struct
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    written = b""
    while True:
        try:
            some = os.read(terminal, 4096)
        except OSError:  # Linux's way to say that nobody has the other end any more.
            break
        if not some:
            break
        written += some
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert status == 0, written.decode()
    return written.decode()


def test_a_terminal_has_a_bar_that_prints_of_plugins_do_not_break(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "from dno.plugin import RewardConfig\n"
        "class Loud(RewardConfig):\n"
        "    def build(self, ctx):\n"
        "        def reward(images, prompts):\n"
        "            print('a word', 'of a plugin', sep=' ')\n"
        "            return images.mean(dim=(1, 2, 3))\n"
        "        return reward\n"
    )
    information = tmp_path / "loud-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[dno.v1.rewards]\nloud = loud:Loud\n")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{SCRIPT}"
    shown = on_terminal([sys.executable, "-c", script, *RUN], tmp_path, 100)

    lines = [line.rpartition("\r")[2] for line in shown.replace("\r\n", "\n").split("\n")]
    words = [line for line in lines if "a word" in line]
    assert words == ["a word of a plugin"] * len(words)
    assert len(words) >= 4
    states = [line for line in re.split(r"[\r\n]+", shown) if line.startswith("iteration")]
    assert any(state.startswith("iteration 3/3 |") for state in states)
    assert all(len(state) <= 100 for state in states)
    last = states[-1]
    assert re.search(r"█\| loud 0\.\d+  best 0\.\d+  log P -\d\.\d\d  0 s left$", last)
    assert "\nloud: " not in last
