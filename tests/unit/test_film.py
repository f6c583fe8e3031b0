"""Frames of a run: few, small, the same ones whatever interrupts it, and nowhere else."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dno.errors import RunError
from dno.film import MOST, Film, Layout, animation_of, frame, frames_in, read_frame, stride


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def picture(level: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB", size, (level % 256, 128, 255 - level % 256))


def film(folder: Path, first: int, last: int, start: int | None = None) -> None:
    """One process that makes the iterations from `first` to `last`."""
    kept = Film(folder)
    kept.begin(first if start is None else start)
    for iteration in range(first, last + 1):
        if kept.wants(iteration):
            kept.keep(iteration, [picture(iteration)])


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "frames").iterdir()}


def test_a_short_run_has_a_frame_of_each_iteration(tmp_path: Path) -> None:
    film(tmp_path, 0, 16)
    assert list(frames_in(tmp_path)) == list(range(17))


@pytest.mark.parametrize("last", [58, 59, 60, 119, 120, 500])
def test_a_long_run_is_thinned_evenly(tmp_path: Path, last: int) -> None:
    film(tmp_path, 0, last)
    at = list(frames_in(tmp_path))
    assert at == list(range(0, last + 1, stride(last)))
    assert MOST // 2 <= len(at) <= MOST


@given(st.integers(0, 10**7))
def test_strides_never_leave_more_frames_than_allowed(iteration: int) -> None:
    assert iteration // stride(iteration) + 1 <= MOST
    assert stride(iteration) == 1 or iteration // (stride(iteration) // 2) + 1 > MOST


@pytest.mark.parametrize("killed", [3, 59, 60, 61, 100, 130])
def test_a_killed_run_that_goes_on_keeps_what_one_that_was_not_killed_keeps(
    tmp_path: Path, killed: int
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    film(whole, 0, 150)
    # It had come further than what was saved of it, and is resumed from there.
    film(broken, 0, killed)
    film(broken, killed // 2, 150)
    assert held(broken) == held(whole)


def test_what_comes_after_the_start_of_a_resumed_run_is_made_again(tmp_path: Path) -> None:
    film(tmp_path, 0, 9)
    Film(tmp_path).begin(4)
    assert list(frames_in(tmp_path)) == [0, 1, 2, 3]


@pytest.mark.parametrize("samples", [1, 2, 5, 16, 100, 5000])
def test_a_frame_is_small_however_many_samples_there_are(samples: int) -> None:
    noise = Image.effect_noise((512, 384), 90).convert("RGB")
    data = frame([noise] * samples)
    with Image.open(io.BytesIO(data)) as shown:
        layout = Layout.of(samples)
        assert shown.width * shown.height <= 2**20
        assert (shown.width % layout.columns, shown.height % layout.rows) == (0, 0)
        assert shown.width // layout.columns <= 256
    assert len(data) < 2**20
    assert layout.cells == min(samples, 1024)


def test_samples_stand_in_rows_in_their_order() -> None:
    data = frame([picture(60 * i, (64, 32)) for i in range(5)])
    with Image.open(io.BytesIO(data)) as shown:
        assert shown.size == (3 * 64, 2 * 32)
        reds = [shown.convert("RGB").getpixel((64 * x + 30, 32 * y + 15)) for y, x in CELLS]
    assert [red[0] for red in reds] == pytest.approx([0, 60, 120, 180, 240], abs=4)  # type: ignore[index]


CELLS = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_pictures_of_the_models_own_size_are_kept_without_loss() -> None:
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    with Image.open(io.BytesIO(frame([noise]))) as shown:
        assert shown.convert("RGB").tobytes() == noise.tobytes()


def test_a_folder_that_leads_elsewhere_is_not_written_to(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "000003.webp").write_bytes(b"mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / "frames").symlink_to(mine)
    with pytest.raises(RunError, match="frames is a link, and frames are written into the run"):
        Film(run).begin(0)
    with pytest.raises(RunError, match="is a link"):
        Film(run).keep(0, [picture(0)])
    assert frames_in(run) == {}
    assert {path.name: path.read_bytes() for path in mine.iterdir()} == {"000003.webp": b"mine"}


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_a_link_in_the_folder_is_not_written_through(tmp_path: Path, kind: str) -> None:
    mine = tmp_path / "mine.webp"
    mine.write_bytes(b"mine")
    frames = tmp_path / "frames"
    frames.mkdir()
    for name in ("000000.webp", "000001.webp", "000007.webp"):
        if kind == "hard":
            os.link(mine, frames / name)
        else:
            (frames / name).symlink_to(mine)
    film(tmp_path, 0, 1)
    assert mine.read_bytes() == b"mine"
    assert list(frames_in(tmp_path)) == [0, 1]


def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for name in ("notes.txt", "12.webp", "000900.png", "cover.webp"):
        (tmp_path / "frames" / name).write_text("mine")
    film(tmp_path, 0, 100)
    kept = {name for name, data in held(tmp_path).items() if data == b"mine"}
    assert kept == {"notes.txt", "12.webp", "000900.png", "cover.webp"}


def test_a_frame_of_somebody_elses_is_looked_at_with_care(tmp_path: Path) -> None:
    path = tmp_path / "000000.webp"
    path.write_bytes(b"RIFF....WEBPVP8 " + b"\0" * 40)
    with pytest.raises((OSError, ValueError)):
        read_frame(path)
    Image.new("RGB", (8, 8)).save(path, "PNG")
    with pytest.raises(OSError, match="cannot identify"):
        read_frame(path)
    Image.new("RGB", (1500, 1500)).save(path, "WEBP", method=0)
    with pytest.raises(ValueError, match="larger than a frame"):
        read_frame(path)


def test_an_animation_shows_each_frame_and_holds_the_last(tmp_path: Path) -> None:
    assert animation_of(tmp_path) is None
    for i in range(5):
        Film(tmp_path).keep(i, [picture(60 * i)])
    (tmp_path / "frames" / "000005.webp").write_bytes(b"damaged")
    data = animation_of(tmp_path)
    assert data is not None
    with Image.open(io.BytesIO(data)) as moving:
        assert moving.n_frames == 5  # type: ignore[attr-defined]
        lengths = []
        for number in range(5):
            moving.seek(number)
            moving.load()
            lengths.append(moving.info["duration"])
    assert lengths == [400, 400, 400, 400, 1500]
