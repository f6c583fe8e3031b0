import io
import math
import os
import re
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dno_builtin.observers.animation import Animation
from dno_builtin.observers.curve import Curve
from dno_builtin.observers.frames import Frames
from dno_builtin.observers.images import Images
from dno_builtin.observers.progress import Progress
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from dno.core.events import Bus
from dno.core.result import Snapshot, Status
from dno.plugin import (
    BuildContext,
    ConfigError,
    Medium,
    ObserverConfig,
    Outcome,
    RunError,
    RunInfo,
    StepRecord,
)

CPU = BuildContext(device=torch.device("cpu"), dtype=torch.float32)
ONE = RunInfo(items=[("a cat", 0)], iterations=20, start=0, folder=None)
TWO = replace(ONE, items=[("a cat", 0), ("a cat", 1)])
SAMPLES = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))


class Screen(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def record(
    iteration: int,
    *,
    rewards: Mapping[str, tuple[float, ...]] | None = None,
    monitors: Mapping[str, tuple[float, ...]] | None = None,
    log_p: tuple[float, ...] | None = (-0.5,),
    best: tuple[float, ...] = (0.25,),
    seconds: float | None = None,
) -> StepRecord:
    rewards = rewards or {"brightness": (iteration / 100,)}
    size = len(next(iter(rewards.values())))
    return StepRecord(
        iteration=iteration,
        grid=None,
        reward=(0.0,) * size,
        objective=(0.0,) * size,
        rewards=rewards,
        monitors=monitors or {},
        penalties={},
        log_p={} if log_p is None else {"permutation": log_p},
        gamma=None,
        figures={},
        healthy=(True,) * size,
        best=best,
        grad_norm=(1.0,) * size,
        seconds=2.0 * iteration + 7 if seconds is None else seconds,
    )


def outcome(run: RunInfo) -> Outcome:
    shot = Snapshot(
        noise_BN=torch.zeros(1, 4),
        samples=SAMPLES[:1],
        score_B=torch.zeros(1),
        iteration_B=torch.zeros(1),
        rewards={},
        monitors={},
        log_p={},
        figures={},
    )
    return Outcome(
        status=Status.FINISHED, items=run.items, initial=shot, best=shot, last=shot, history=[]
    )


def watch(
    run: RunInfo, observer: ObserverConfig, records: list[StepRecord], samples: Tensor = SAMPLES
) -> list[bool]:
    bus = Bus(run, [observer.build(CPU)])
    bus.started()
    stops = [bus.step(one, samples) for one in records]
    bus.finished(outcome(run))
    return stops


def show(screen: Screen, run: RunInfo, records: list[StepRecord]) -> list[bool]:
    with redirect_stderr(screen):
        return watch(run, Progress(), records)


@pytest.fixture
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Screen:
    screen = Screen(terminal=request.param)
    monkeypatch.setenv("COLUMNS", "80")
    return screen


on_terminal = pytest.mark.parametrize("screen", [True], indirect=True, ids=["terminal"])
on_file = pytest.mark.parametrize("screen", [False], indirect=True, ids=["file"])


@on_terminal
def test_a_terminal_sees_one_bar_rewritten(screen: Screen) -> None:
    stops = show(screen, ONE, [record(i) for i in range(21)])
    assert stops == [False] * 21
    text = screen.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    states = text.removesuffix("\n").split("\r")[1:]
    first, middle, last = states[0], states[10], states[20]
    assert re.fullmatch(r"iteration 0/20 \|\s+\| brightness 0  best 0.25  log P -0.50", first)
    assert middle.startswith("iteration 10/20 |#####     |")
    assert middle.endswith("| brightness 0.1  best 0.25  log P -0.50  20 s left")
    assert last.startswith("iteration 20/20 |##########|")


@on_terminal
def test_the_grid_is_told_where_a_run_climbs_on_several(screen: Screen) -> None:
    run = replace(ONE, config={"coarse": [10]})
    show(screen, run, [replace(record(0), grid=10), record(1)])
    first, second = screen.getvalue().split("\r")[1:3]
    assert first.startswith("iteration 0/20 on 10 steps")
    assert second.startswith("iteration 1/20 on all steps")


@on_file
def test_a_file_gets_a_line_each_tenth(screen: Screen) -> None:
    show(screen, ONE, [record(i) for i in range(20)])
    text = screen.getvalue()
    assert "\r" not in text
    shown = [int(found) for found in re.findall(r"^iteration (\d+)/20  ", text, flags=re.MULTILINE)]
    assert shown == [*range(0, 20, 2), 19]
    assert text.endswith("\n")


@on_file
def test_a_short_or_resumed_run_is_shown_whole(screen: Screen) -> None:
    show(screen, replace(ONE, iterations=3), [record(i) for i in range(4)])
    assert screen.getvalue().count("\n") == 4
    screen.seek(0)
    screen.truncate()
    show(screen, replace(ONE, iterations=1000, start=995), [record(i) for i in range(995, 998)])
    lines = screen.getvalue().splitlines()
    assert [line.partition("  ")[0] for line in lines] == [
        "iteration 995/1000",
        "iteration 997/1000",
    ]
    assert lines[1].endswith("6 s left")


@on_file
def test_a_batch_shows_means_and_the_least_log_p(screen: Screen) -> None:
    rewards = {"brightness": (0.25, 0.75), "jpeg": (-3.0, -4.0)}
    show(screen, TWO, [record(0, rewards=rewards, log_p=(-0.5, -2.5), best=(1.0, 3.0))])
    line = "iteration 0/20  brightness 0.5  jpeg -3.5  best 2  log P -1.50 (least -2.50)\n"
    assert screen.getvalue() == line


@on_file
def test_monitors_are_shown_behind_the_rewards(screen: Screen) -> None:
    show(screen, ONE, [record(0, rewards={"own": (1.0,)}, monitors={"jpeg": (-3.0,)}, log_p=None)])
    assert screen.getvalue() == "iteration 0/20  own 1  jpeg -3  best 0.25\n"


@on_file
def test_means_are_of_the_samples_that_could_be_evaluated(screen: Screen) -> None:
    sick = record(
        0, rewards={"own": (math.nan, 1.0)}, log_p=(math.nan, -0.5), best=(-math.inf, 1.0)
    )
    show(screen, TWO, [sick])
    assert screen.getvalue() == "iteration 0/20  own 1  best 1  log P -0.50 (least -0.50)\n"


@on_file
@pytest.mark.parametrize(
    ("best", "shown"), [((-math.inf, -math.inf), "-"), ((-math.inf, 3.0), "3")]
)
def test_there_may_be_no_best_yet_and_no_log_p(
    screen: Screen, best: tuple[float, ...], shown: str
) -> None:
    show(screen, TWO, [record(0, rewards={"own": (1.0, 2.0)}, log_p=None, best=best)])
    assert screen.getvalue() == f"iteration 0/20  own 1.5  best {shown}\n"


@on_file
@pytest.mark.parametrize(
    ("pace", "left"), [(5, "95 s"), (60, "19 min 00 s"), (61, "19 min 19 s"), (600, "3 h 10 min")]
)
def test_time_left_is_readable(screen: Screen, pace: float, left: str) -> None:
    show(screen, ONE, [record(i, seconds=100 + i * pace) for i in (0, 1)])
    assert screen.getvalue().endswith(f"  {left} left\n")


@on_file
def test_a_run_bounded_by_time_counts_seconds(screen: Screen) -> None:
    show(
        screen,
        replace(ONE, iterations=10**6, seconds=100.0),
        [record(i, seconds=10.0 + 4 * i) for i in range(20)],
    )
    lines = screen.getvalue().splitlines()
    assert lines[0].startswith("iteration 0, 10/100 s  brightness")
    assert lines[1].startswith("iteration 3, 22/100 s")
    assert lines[1].endswith("78 s left")
    assert len(lines) == 8


@on_file
def test_a_run_that_ends_at_once_shows_nothing(screen: Screen) -> None:
    show(screen, ONE, [])
    assert screen.getvalue() == ""


def test_images_are_written_every_so_often(tmp_path: Path) -> None:
    run = replace(TWO, iterations=100, folder=tmp_path)
    stops = watch(run, Images(every=5), [record(i) for i in (0, 1, 4, 5, 9, 100)])
    assert not any(stops)
    names = sorted(file.name for file in (tmp_path / "steps").iterdir())
    assert names == ["000-0.png", "000-1.png", "005-0.png", "005-1.png", "100-0.png", "100-1.png"]
    for sample in (0, 1):
        with Image.open(tmp_path / "steps" / f"005-{sample}.png") as image:
            assert image.mode == "RGB"
            pixels = torch.tensor(list(image.tobytes())).view(4, 6, 3).permute(2, 0, 1)
        assert torch.equal(pixels, (SAMPLES[sample] * 255).round().long())


def test_numbers_of_samples_are_padded_too(tmp_path: Path) -> None:
    run = replace(ONE, items=[("a cat", seed) for seed in range(11)], folder=tmp_path)
    watch(run, Images(), [record(i) for i in range(12)], samples=torch.rand(11, 3, 2, 2))
    names = sorted(file.name for file in (tmp_path / "steps").iterdir())
    assert names == [f"{i:02d}-{sample:02d}.png" for i in (0, 10) for sample in range(11)]


def test_images_need_a_run_folder() -> None:
    bus = Bus(ONE, [Images().build(CPU)])
    with pytest.raises(ConfigError, match="writes to the run folder, and this run has none"):
        bus.started()


def test_an_image_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = Bus(replace(ONE, folder=tmp_path), [Images().build(CPU)])
    bus.started()
    bus.step(record(0), SAMPLES[:1])
    before = (tmp_path / "steps" / "00-0.png").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        RunError, match=r"00-0\.png cannot be written: .*No space left on device; make room"
    ):
        bus.step(record(0), 1 - SAMPLES[:1])
    assert [file.name for file in (tmp_path / "steps").iterdir()] == ["00-0.png"]
    assert (tmp_path / "steps" / "00-0.png").read_bytes() == before


def test_samples_that_are_no_images_are_said(tmp_path: Path) -> None:
    bus = Bus(replace(ONE, folder=tmp_path), [Images().build(CPU)])
    bus.started()
    with pytest.raises(RunError, match="no picture of samples of shape 1x40, which are no images"):
        bus.step(record(0), torch.zeros(1, 40))


def test_of_a_video_the_middle_frame_is_written(tmp_path: Path) -> None:
    video = torch.rand(2, 5, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    bus = Bus(replace(TWO, folder=tmp_path), [Images().build(CPU)])
    bus.started()
    bus.step(record(0), video, Medium("video", rate=8))
    for sample in range(2):
        with Image.open(tmp_path / "steps" / f"00-{sample}.png") as shown:
            pixels = torch.from_numpy(np.array(shown)).permute(2, 0, 1)
        assert torch.equal(pixels, (video[sample, 2] * 255).round().byte())


def test_of_a_sound_the_waveform_is_written(tmp_path: Path) -> None:
    bus = Bus(replace(ONE, folder=tmp_path), [Images().build(CPU)])
    bus.started()
    bus.step(record(0), torch.zeros(1, 2, 400), Medium("audio", rate=400))
    with Image.open(tmp_path / "steps" / "00-0.png") as shown:
        assert shown.size == (256, 64)


class Lost(io.StringIO):
    """A stream whose reader is gone, or that somebody closed."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.tries = 0

    def write(self, text: str) -> int:
        self.tries += 1
        raise self.error


@pytest.mark.parametrize(
    "error",
    [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left"), ValueError("I/O on closed")],
    ids=["pipe", "full", "closed"],
)
def test_progress_that_nobody_reads_ends_no_run(error: Exception) -> None:
    lost = Lost(error)
    with redirect_stderr(lost):
        watch(ONE, Progress(), [record(i) for i in range(21)])
    assert lost.tries == 1


def test_a_process_without_standard_error_has_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    watch(ONE, Progress(), [record(0)])


def test_every_is_at_least_one() -> None:
    with pytest.raises(ValidationError, match="every"):
        Images(every=0)


def kept_frames(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "frames").iterdir())


def test_frames_are_kept_of_all_samples(tmp_path: Path) -> None:
    run = replace(TWO, folder=tmp_path)
    assert not any(watch(run, Frames(), [record(i) for i in range(3)]))
    assert kept_frames(tmp_path) == ["000000.webp", "000001.webp", "000002.webp"]
    with Image.open(tmp_path / "frames" / "000002.webp") as shown:
        pixels = torch.from_numpy(np.array(shown)).permute(2, 0, 1)
    side_by_side = torch.cat(list(SAMPLES), dim=2)
    assert torch.equal(pixels, (side_by_side * 255).round().byte())


def test_frames_of_a_resumed_run_go_on_where_it_does(tmp_path: Path) -> None:
    watch(replace(ONE, folder=tmp_path), Frames(), [record(i) for i in range(5)])
    watch(replace(ONE, folder=tmp_path, start=3), Frames(), [record(3)])
    assert kept_frames(tmp_path) == [f"00000{i}.webp" for i in range(4)]


def test_without_a_folder_or_pictures_there_are_no_frames(tmp_path: Path) -> None:
    watch(ONE, Frames(), [record(0)])
    watch(replace(ONE, folder=tmp_path), Frames(), [record(0)], samples=torch.zeros(1, 40))
    assert list(tmp_path.iterdir()) == []


def test_frames_that_cannot_be_written_are_told_once_and_end_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    watch(replace(ONE, folder=tmp_path), Frames(), [record(i) for i in range(3)])
    (told,) = caplog.messages
    assert "000000.webp cannot be written: No space left on device; the run goes on" in told


@pytest.mark.parametrize("with_frames", [True, False], ids=["with frames", "alone"])
def test_an_animation_is_made_of_the_frames(tmp_path: Path, *, with_frames: bool) -> None:
    names = ["frames", "animation"] if with_frames else ["animation"]
    run = replace(ONE, folder=tmp_path, config={"observers": [{"use": name} for name in names]})
    keeper = Frames().build(CPU) if with_frames else None
    bus = Bus(run, [one for one in (keeper, Animation().build(CPU)) if one is not None])
    bus.started()
    for i in range(4):
        bus.step(record(i), SAMPLES[:1].roll(i, dims=3))
    bus.finished(outcome(run))
    assert len(kept_frames(tmp_path)) == 4
    with Image.open(tmp_path / "animation.webp") as moving:
        assert moving.n_frames == 4  # type: ignore[attr-defined]


def test_a_run_of_one_iteration_has_no_animation(tmp_path: Path) -> None:
    watch(replace(ONE, folder=tmp_path), Animation(), [record(0)])
    assert not (tmp_path / "animation.webp").exists()


def test_the_curve_is_one_picture_of_pictures_and_lines(tmp_path: Path) -> None:
    run = replace(ONE, folder=tmp_path)
    bus = Bus(run, [Curve().build(CPU)])
    history = [record(iteration) for iteration in range(3)]
    bus.finished(replace(outcome(run), history=history, medium=Medium("image")))
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture)
    assert pixels.shape == (600, 900, 3)
    # The samples' pictures are above, and the lines below them, in matplotlib's blue.
    colours = (SAMPLES[0] * 255).round().byte().flatten(1).T.numpy()
    for colour in colours:
        assert (pixels[:260] == colour).all(-1).sum() > 100
    blue = pixels[260:, :, 2] > pixels[260:, :, 0] + 40.0
    assert blue[:, :450].any()
    assert blue[:, 450:].any()
