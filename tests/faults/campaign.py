"""A small campaign of faults against runs on a toy sampler: a line a section, 1 if any failed.

Run it alone: `python tests/faults/campaign.py [SECTION...]`
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from distributions import Site
from forks import Done, Interference, anew, bits, fill_disk, forked, interrupt, kill, look
from warm import run_once

TOY: Final = """
from dno.plugin import SamplerConfig
from dno.testing.toy import ToySampler
class Toy(SamplerConfig):
    "Small pictures without a network."
    def build(self, ctx):
        return ToySampler()
"""

BAD: Final = '''
import os, sys, threading, time
import torch
from dno.plugin import RewardConfig
class Bad(RewardConfig):
    """Brightness, and a deed."""
    deed: str = "nothing"
    at: int = 2
    def build(self, ctx):
        if self.deed == "build nothing":
            return None
        calls = []
        def reward(images, prompts):
            value_B = images.mean(dim=(1, 2, 3))
            calls.append(1)
            if len(calls) >= self.at:
                answer = DEEDS[self.deed](images)
                value_B = value_B if answer is None else answer
            return value_B
        return reward
def close(images):
    sys.stdout.close()
    sys.stderr.close()
def hurt(images):
    images.data.zero_()
def no_gradient(images):
    torch.set_grad_enabled(False)
def thread(images):
    threading.Thread(target=time.sleep, args=(600,), name="left-behind").start()
def end(error):
    def deed(images):
        raise error
    return deed
DEEDS = {
    "nothing": lambda images: None,
    "exit": end(SystemExit(0)),
    "exit in words": end(SystemExit("bye")),
    "end": end(GeneratorExit()),
    "raise": end(ValueError("no face")),
    "memory": end(MemoryError()),
    "sick": lambda images: images.mean(dim=(1, 2, 3)) * float("nan"),
    "chdir": lambda images: os.chdir("/"),
    "print": lambda images: print("brightness 9 -> 10"),
    "close": close,
    "zero": hurt,
    "dtype": lambda images: torch.set_default_dtype(torch.float64),
    "no grad": no_gradient,
    "thread": thread,
}
'''

CONFIG: Final = """\
prompts = ["a cat"]
seeds = [0]
iterations = 2
metadata = false
log_p_floor = -inf
reports = []

[sampler]
use = "toy"

[[rewards]]
use = "bad"
weight = 1.0
deed = "nothing"

[[regularizers]]
use = "norm"
weight = 0.01

[[observers]]
use = "images"
every = 1
essential = true

[[observers]]
use = "frames"

[[observers]]
use = "report"

[optimizer]
use = "adam"
lr = 0.01
"""

Failures = Iterator[str]
"""What went wrong, one sentence each; an empty one for each attempt that went well."""


class Field:
    """Where the campaign takes place: a folder, and a run in it that nothing befell."""

    def __init__(self, place: Path) -> None:
        self.place = place
        site = place / "site"
        site.mkdir()
        sys.path.insert(0, str(site))
        os.environ["PYTHONPATH"] = str(site)
        installed = Site(site)
        installed.install("dno-toy", "[dno.v1.samplers]\ntoy = toy_plugin:Toy\n", "toy_plugin", TOY)
        installed.install("dno-bad", "[dno.v1.rewards]\nbad = bad_plugin:Bad\n", "bad_plugin", BAD)
        self.config = place / "run.toml"
        self.config.write_text(CONFIG)
        self.args = ["optimize", "--config", self.config, "--quiet"]

        self._prepare()

        self.work = place / "work"
        whole = anew(self.work) / "whole"
        done = forked([*self.args, "--out", whole], self.work)
        assert done.code == 0, done.err
        self.right = bits(whole)
        self.whole = whole.rename(place / "whole")

    def _prepare(self) -> None:
        """Do once what every child does, with a search in the climb's place; see `run_once`."""
        import tomllib

        from dno.runs.load import load
        from dno.runs.run_config import RunConfig

        load(RunConfig.parse(tomllib.loads(CONFIG)))
        searched = self.place / "searched"
        config = self.place / "search.toml"
        config.write_text(CONFIG.replace('"adam"\nlr = 0.01', '"best-of-n"'))
        optimize = ["optimize", "--config", str(config), "--quiet", "--out", str(searched)]
        run_once(optimize, ["resume", str(searched)])
        assert (searched / "report.html").is_file()

    def fresh(self) -> Path:
        """Where the next run is to be; nothing is there."""
        return anew(self.work) / "run"

    def resumed(self, run: Path, *, needed: bool = True) -> str:
        """What is wrong with a run after it was resumed; nothing if it is as if nothing befell it.

        Args:
            run: its folder.
            needed: whether it must be possible to resume it.
        """
        done = forked(["resume", run], self.work)
        if not done.is_clean:
            return f"resume: {done}"
        if done.code == 2 and not needed:
            return ""
        if done.code:
            return f"resume: {done}"
        return "" if bits(run) == self.right else "resumed to other bits"


def at_each_operation(
    field: Field, deed: Callable[[], object], codes: tuple[int, ...], *, calls: bool = False
) -> Failures:
    """A run to which something happens at each of its operations on files, and then resumes.

    Args:
        field: where.
        deed: what happens.
        codes: exit codes that it may end with.
        calls: whether calls that only write into an open file count, too.
    """
    log = field.place / "operations"

    def befallen(at: int) -> tuple[Path, Done, int]:
        run = field.fresh()
        log.unlink(missing_ok=True)
        happens = Interference(run, at, deed, log, calls=calls)
        return run, forked([*field.args, "--out", run], field.work, happens), log.stat().st_size

    _, _, count = befallen(0)
    yield "" if count > 20 else f"only {count} operations were seen"
    resumable = 0
    attempts = 0
    for at in range(1, count + 1, 1 if deed is kill else 2):
        run, done, _ = befallen(at)
        trouble = ""
        if not done.is_clean or done.code not in codes:
            trouble = str(done)
        elif look(field.work, without=run):
            trouble = f"left beside the run: {list(look(field.work, without=run))}"
        elif run.is_dir():
            began = (run / "run.toml").is_file()
            resumable += began
            trouble = field.resumed(run, needed=began)
        yield f"operation {at} of {count}: {trouble}" if trouble else ""
        attempts += 1
    yield "" if resumable > attempts / 2 else f"only {resumable} of {attempts} could be resumed"


def killed(field: Field) -> Failures:
    """Killed before each operation on a file."""
    yield from at_each_operation(field, kill, (-signal.SIGKILL,))


def full(field: Field) -> Failures:
    """A disk that is full at each operation on a file; for one that can be spared, all is well."""
    yield from at_each_operation(field, fill_disk, (0, 1, 2), calls=True)


def interrupted(field: Field) -> Failures:
    """Ctrl-C at each operation on a file."""
    yield from at_each_operation(field, interrupt, (0, 130))


def mutated(field: Field) -> Failures:
    """Configurations with something changed: they run, or a sentence says why not."""
    dice = random.Random(0)
    values = ["nan", "-1", '"x"', "[]", "{}", "true", "1e999", "99999999999999999999", '""', "0"]
    values += ['["a", 3]', "{use = 3}", '"\\u0000"', '"\\u202e"', "1979-05-27", "[[[[]]]]"]
    for number in range(100):
        lines = CONFIG.splitlines()
        for _ in range(dice.choice((1, 1, 2))):
            at = dice.randrange(len(lines))
            key, equals, _ = lines[at].partition(" = ")
            what = dice.randrange(4)
            if what == 0:
                del lines[at]
            elif what == 1 and equals:
                lines[at] = f"{key} = {dice.choice(values)}"
            elif what == 2 and equals:
                lines[at] = f"{key}{dice.choice('sx.-')} = 1"
            else:
                place = dice.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:place] + dice.choice('"[]=.#é\x00') + lines[at][place:]
        run = field.fresh()
        file = field.place / "mutated.toml"
        file.write_text("\n".join(lines))
        args = ["optimize", "--config", file, "--quiet", "--seconds", 0.05, "--out", run]
        done = forked(args, field.work)
        well = done.is_clean and done.code in (0, 1, 2)
        yield "" if well else f"mutation {number}: {done}\n{file.read_text()}"


def hostile(field: Field) -> Failures:
    """Run folders from a stranger: nothing outside of them changes, whatever they hold."""
    victim = field.place / "victim"
    names = [path.relative_to(field.whole) for path in field.whole.rglob("*") if path.is_file()]
    hidden = [name.with_name(f".{name.name}.part") for name in names]

    def link(at: Path) -> None:
        at.symlink_to(victim / "file")

    def other_name(at: Path) -> None:
        os.link(victim / "file", at)

    def folder(at: Path) -> None:
        at.mkdir()
        (at / "inside").write_text("mine")

    def no_text(at: Path) -> None:
        at.write_bytes(bytes(range(256)) * 9)

    def attempt(name: Path, put: Callable[[Path], None]) -> str:
        anew(victim)
        (victim / "file").write_text("mine")
        before = look(victim)
        run = anew(field.fresh(), like=field.whole)
        at = run / name
        if at.is_dir():
            anew(at).rmdir()
        at.unlink(missing_ok=True)
        put(at)
        done = forked(["resume", run, "--iterations", 3], field.work)
        trouble = ""
        if not done.is_clean or done.code not in (0, 1, 2):
            trouble = str(done)
        elif look(victim) != before:
            trouble = "what is outside was changed"
        return f"{name} as {put.__name__}: {trouble}" if trouble else ""

    for name in [*names, *hidden]:
        for put in (link, other_name):
            yield attempt(name, put)
    for name in names:
        if name.suffix != ".png":
            yield attempt(name, folder)
            yield attempt(name, no_text)

    def folder_link(at: Path) -> None:
        at.symlink_to(victim)

    for name in ("steps", "frames"):
        yield attempt(Path(name), folder_link)


def plugins(field: Field) -> Failures:
    """A reward with a deed: it changes nothing, or is named and ends the run with 1."""
    told = {
        "exit": 'reward "bad" tried to end the program (SystemExit: 0)',
        "exit in words": 'reward "bad" tried to end the program (SystemExit: bye)',
        "end": 'reward "bad" tried to end the program (GeneratorExit)',
        "raise": 'reward "bad" failed with ValueError: no face',
        "memory": "ran out of memory",
        "sick": 'reward "bad": its value is not finite for sample 0',
        "build nothing": "rewards.0: its build returned None",
    }
    same = ("chdir", "print", "close", "zero", "dtype", "no grad")
    for deed in (*told, *same):
        for at in (1, 2):
            run = field.fresh()
            options = ["--set", f"rewards.0.deed={deed}", "--set", f"rewards.0.at={at}"]
            done = forked([*field.args, *options, "--out", run], field.work)
            trouble = ""
            if not done.is_clean:
                trouble = str(done)
            elif deed in same:
                fine = done.code == 0 and bits(run) == field.right and "-> 10" not in done.out
                trouble = "" if fine else f"it changed something: {done}"
            elif done.code not in (1, 2) or told[deed] not in done.err:
                trouble = f"it was not named: {done}"
            elif at == 2 and deed != "build nothing" and not (run / "best.png").is_file():
                trouble = "what was reached was not kept"
            yield f"{deed} at call {at}: {trouble}" if trouble else ""
    yield _goes_on_from_its_best(field)


def _goes_on_from_its_best(field: Field) -> str:
    """What is wrong with the way that a run tells of whose numbers are not finite."""
    run = field.fresh()
    sick = ["--set", "rewards.0.deed=sick", "--out", run]
    done = forked([*field.args, *sick], field.work)
    way = f"optimize --config {run}/run.toml --start {run}"
    if f"dno {way}" not in done.err:
        return f"no way is told: {done}"
    mended = ["--set", "rewards.0.deed=nothing", "--lr", 0.001, "--quiet"]
    other = forked([*way.split(), *mended, "--out", field.work / "other"], field.work)
    if other.code:
        return f"the way leads nowhere: {other}"
    resumed = forked(["resume", run], field.work)
    return "" if resumed.code == 1 and resumed.is_clean else f"resume: {resumed}"


def streams(field: Field) -> Failures:
    """Standard output and error that are closed, full, or read by nobody."""

    def full_up(number: int) -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), number)

    def unread(number: int) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, number)

    loud = ["optimize", "--config", field.config, "--set", 'observers=["progress", "images"]']
    loud += ["--set", "observers.1.every=1"]
    for lose in (os.close, full_up, unread):
        for numbers in ((1,), (2,), (1, 2), (0, 1, 2)):
            run = field.fresh()

            def before(lose: Any = lose, numbers: Any = numbers) -> None:
                for number in numbers:
                    lose(number)

            done = forked([*loud, "--out", run], field.work, before)
            trouble = ""
            if not run.is_dir() or bits(run) != field.right:
                trouble = "the run was not finished"
            elif done.code != int(1 in numbers):
                trouble = "wrong exit code"
            elif numbers == (1,) and f"the run is kept in {run}" not in done.err:
                trouble = "nobody was told where it is"
            elif "Traceback" in done.err:
                trouble = "a traceback"
            yield f"{lose.__name__} {numbers}: {trouble} {done}" if trouble else ""


def signals(field: Field) -> Failures:
    """Requests to end, at any time of a run and of its start."""
    dice = random.Random(0)
    requests = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    began = time.monotonic()
    forked([*field.args, "--out", field.fresh()], field.work)
    took = time.monotonic() - began
    for number in range(24):
        run = field.fresh()
        request = requests[number % 3]
        times = 1 + (number % 4 == 0)

        def ask(child: int, request: Any = request, times: int = times) -> None:
            time.sleep(dice.random() * took)
            for _ in range(times):
                os.kill(child, request)
                time.sleep(0.02)

        # Before that, a child is not yet `dno`, and ends as any other program would.
        done = forked([*field.args, "--out", run], field.work, meanwhile=ask)
        early = done.code in [-request for request in requests] or "forks.py" in done.err
        # Asked when all had been told, there is nothing left to say.
        late = done.code == 130 and "finished: " in done.out and not done.err
        trouble = ""
        if not early and not late and (not done.is_clean or done.code not in (0, 130)):
            trouble = str(done)
        elif (run / "run.toml").is_file():
            trouble = field.resumed(run)
        yield f"{request.name} in a run: {trouble}" if trouble else ""

    command = Path(sys.executable).with_name("dno")
    for delay in (0.2, 0.5, 1.2):
        run = field.fresh()
        with subprocess.Popen(
            [command, *field.args, "--out", run], cwd=field.work, stderr=subprocess.PIPE, text=True
        ) as starting:
            time.sleep(delay)
            starting.send_signal(signal.SIGINT)
            _, said = starting.communicate(timeout=120)
        # A quick machine may be done before it is asked.
        finished = starting.returncode == 0 and (run / "result.json").is_file()
        # On a busy one it is not yet Python, and ends as any other program would.
        early = starting.returncode == -signal.SIGINT and not said
        well = (starting.returncode == 130 or early or finished) and "Traceback" not in said
        yield "" if well else f"SIGINT after {delay} s: {starting.returncode} {said}"


def threads(field: Field) -> Failures:
    """A thread that a plugin leaves behind is named, and keeps the command from ending for a while
    only.
    """
    code = (
        "import sys, dno.cli.entry as entry\n"
        "entry.NAMED_AFTER, entry.LEFT_AFTER = 0.2, 0.3\n"
        "entry.main()\n"
    )
    run = field.fresh()
    args = [*map(str, field.args), "--out", str(run), "--set", "rewards.0.deed=thread"]
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=field.work,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    well = done.returncode == 0 and "left-behind" in done.stderr and bits(run) == field.right
    yield "" if well else f"{done}"


SECTIONS: Final = (
    killed,
    full,
    interrupted,
    mutated,
    hostile,
    plugins,
    streams,
    signals,
    threads,
)


def main() -> int:
    """Run the sections that are named, or all."""
    failed = False
    with tempfile.TemporaryDirectory() as place:
        field = Field(Path(place))
        for section in SECTIONS:
            if sys.argv[1:] and section.__name__ not in sys.argv[1:]:
                continue
            began = time.monotonic()
            attempts = list(section(field))
            wrong = [attempt for attempt in attempts if attempt]
            took = time.monotonic() - began
            print(
                f"{section.__name__}: {len(attempts)} attempts, {len(wrong)} failed, {took:.0f} s",
                flush=True,
            )
            for attempt in wrong[:5]:
                print(f"    {attempt[:1500]}", flush=True)
            failed = failed or bool(wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
