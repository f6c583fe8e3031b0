"""What samples are: told by the sampler, saved as files that people can open, read back."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import dno
from dno.core.function import FunctionMap, FunctionSampler
from dno.errors import RunError
from dno.media import IMAGE, OTHER, Medium, encoded, medium_of, side_by_side, thumbnails
from dno.protocols import NoiseMap


def seeded(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def pixels(picture: Image.Image) -> Tensor:
    """A picture as `3 x H x W` levels."""
    return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_images_come_back_to_the_level() -> None:
    images = seeded(3, 3, 5, 7)
    files = encoded(IMAGE, images)
    assert [ending for ending, _ in files] == [".png"] * 3
    for image, (_, data) in zip(images, files, strict=True):
        assert opened(data).format == "PNG"
        assert torch.equal(pixels(opened(data)), (255 * image).round().byte())


def test_values_out_of_range_are_clamped_and_not_wrapped() -> None:
    images = torch.tensor([-0.5, 1.5, 0.5]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    ((_, data),) = encoded(IMAGE, images)
    assert opened(data).getpixel((0, 0)) == (0, 255, 128)


@pytest.mark.parametrize("rate", [None, 4.0, 25.0])
def test_videos_come_back_frame_by_frame_at_their_rate(rate: float | None) -> None:
    # Smooth, as compression is made for.
    ramp = torch.linspace(0, 1, 32)
    frames = [(0.2 + 0.6 * ramp.roll(4 * i)).expand(3, 32, 32) for i in range(6)]
    videos = torch.stack([torch.stack(frames), torch.stack(frames[::-1])])
    files = encoded(Medium("video", rate), videos)
    assert [ending for ending, _ in files] == [".webp"] * 2
    for video, (_, data) in zip(videos, files, strict=True):
        film = opened(data)
        assert (film.format, film.n_frames, film.size) == ("WEBP", 6, (32, 32))
        for i, frame in enumerate(video):
            film.seek(i)
            film.load()
            assert film.info["duration"] == round(1000 / (rate or 8))
            away = pixels(film).float() / 255 - frame
            assert away.abs().mean() < 0.05


def test_a_video_that_stands_still_for_a_while_lasts_as_long() -> None:
    frames = torch.cat([torch.zeros(3, 3, 16, 16), torch.ones(2, 3, 16, 16)])
    ((_, data),) = encoded(Medium("video", 10), frames[None])
    film = opened(data)
    length = 0
    for i in range(film.n_frames):
        film.seek(i)
        film.load()
        length += film.info["duration"]
    assert length == 500


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [None, 44_100.0])
def test_sounds_come_back_to_the_level_at_their_rate(channels: int, rate: float | None) -> None:
    sounds = 2.2 * seeded(2, channels, 50) - 1.1
    files = encoded(Medium("audio", rate), sounds)
    assert [ending for ending, _ in files] == [".wav"] * 2
    for sound, (_, data) in zip(sounds, files, strict=True):
        with wave.open(io.BytesIO(data)) as file:
            assert file.getparams()[:4] == (channels, 2, round(rate or 16_000), 50)
            levels = np.frombuffer(file.readframes(50), "<i2").reshape(50, channels).T
        expected = (sound.clamp(-1, 1) * 32767).round().short()
        assert torch.equal(torch.from_numpy(levels.copy()), expected)


def test_what_is_neither_has_no_file_and_no_picture() -> None:
    assert encoded(OTHER, seeded(2, 7)) == []
    assert thumbnails(OTHER, seeded(2, 7)) == []


def test_a_video_is_shown_by_its_middle_frame_and_a_sound_by_its_waveform() -> None:
    video = seeded(1, 5, 3, 4, 4)
    (picture,) = thumbnails(Medium("video"), video)
    assert torch.equal(pixels(picture), (255 * video[0, 2]).round().byte())

    # Loud in its second half alone.
    sound = torch.cat([torch.zeros(500), torch.ones(500) * torch.tensor([1.0, -1.0]).repeat(250)])
    (drawn,) = thumbnails(Medium("audio"), sound.view(1, 1, 1000))
    ink = (pixels(drawn) != 255).any(dim=0).sum(dim=0)
    assert (ink[:120] <= 2).all()
    assert (ink[136:] == drawn.height).all()


def test_pictures_side_by_side_keep_their_pixels() -> None:
    images = seeded(3, 3, 4, 6)
    row = side_by_side(thumbnails(IMAGE, images))
    assert row.size == (18, 4)
    assert torch.equal(pixels(row), (255 * torch.cat(list(images), dim=2)).round().byte())


@dataclass(frozen=True)
class Saying:
    """Something with an opinion of what its samples are."""

    medium: Any


@dataclass(frozen=True)
class Misfit:
    """Samples that are not what their sampler says, and a part of what is told."""

    name: str
    medium: Any
    shape: tuple[int, ...]
    told: str


MISFITS = (
    Misfit("flat image", Medium("image"), (2, 7), r"\(2, 7\), .* are image: B x 3 x H x W"),
    Misfit("grey image", Medium("image"), (2, 1, 4, 4), "image: B x 3 x H x W"),
    Misfit("still video", Medium("video"), (2, 3, 4, 4), "video: B x F x 3 x H x W"),
    Misfit("turned video", Medium("video"), (2, 3, 5, 4, 4), "video: B x F x 3 x H x W"),
    Misfit("one channel", Medium("audio"), (2, 50), "audio: B x C x L"),
    Misfit("a word", "video", (2, 5, 3, 4, 4), "should be a dno.plugin.Medium, got 'video'"),
)


@pytest.mark.parametrize("misfit", MISFITS, ids=lambda misfit: misfit.name)
def test_a_sampler_whose_samples_are_not_what_it_says_is_told(misfit: Misfit) -> None:
    with pytest.raises(RunError, match=misfit.told):
        medium_of(Saying(misfit.medium), torch.zeros(misfit.shape))


def test_without_a_word_the_shape_decides() -> None:
    assert medium_of(object(), torch.zeros(2, 3, 4, 4)) == IMAGE
    assert medium_of(object(), torch.zeros(2, 5, 3, 4, 4)) == OTHER
    assert medium_of(Saying(OTHER), torch.zeros(2, 3, 4, 4)) == OTHER
    assert medium_of(Saying(Medium("video", 24)), torch.zeros(2, 5, 3, 4, 4)).rate == 24


# End to end.


@dataclass(frozen=True)
class MediumMap(FunctionMap):
    """M of `MediumSampler`."""

    medium: Any = None


@dataclass(frozen=True)
class MediumSampler(FunctionSampler):
    """A function of noise that says what its samples are."""

    medium: Any = None

    def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> NoiseMap:
        bound = super().bind(prompts, seeds)
        return MediumMap(bound.noise_BN, bound.draws, bound.function, self.medium)


def film(noise: Tensor) -> Tensor:
    """Frames of one colour each."""
    return noise.sigmoid()[..., None, None].expand(-1, -1, -1, 16, 16)


FILM = MediumSampler(film, [(5, 3)], Medium("video", 10))
SOUND = MediumSampler(torch.tanh, [(2, 400)], Medium("audio", 8_000))


def level(samples: Tensor, prompts: Sequence[str]) -> Tensor:
    return samples.flatten(1).mean(dim=1)


def run(sampler: Any, folder: Path, batch: int) -> dno.Result:
    return dno.optimize(
        "x",
        reward=level,
        sampler=sampler,
        iterations=3,
        paper=True,
        lr=0.1,
        batch=batch,
        out=folder,
    )


@pytest.mark.parametrize("batch", [1, 2])
def test_a_run_of_videos_keeps_films_that_play(tmp_path: Path, batch: int) -> None:
    result = run(FILM, tmp_path / "run", batch)
    assert result.status is dno.Status.FINISHED
    assert result.medium == Medium("video", 10)
    assert result.best.score_B.mean() > result.initial.score_B.mean()
    saved = dno.open_run(tmp_path / "run")
    files = saved.files("best")
    names = ["best.webp"] if batch == 1 else ["best-0.webp", "best-1.webp"]
    assert [file.name for file in files] == names
    for file, video in zip(files, result.best.samples, strict=True):
        with Image.open(file) as film:
            assert film.n_frames == 5
            for i, frame in enumerate(video):
                film.seek(i)
                film.load()
                assert film.info["duration"] == 100
                assert (pixels(film).float() / 255 - frame).abs().max() < 0.05
    # Beside them a picture of each, in a row, for those who only glance.
    with Image.open(tmp_path / "run" / "best.png") as glance:
        assert glance.size == (16 * batch, 16)
    assert saved.result["medium"] == "video"
    assert len(result.images) == batch
    assert "<img" in result._repr_html_()


@pytest.mark.parametrize("batch", [1, 2])
def test_a_run_of_sounds_keeps_waves_that_play(tmp_path: Path, batch: int) -> None:
    result = run(SOUND, tmp_path / "run", batch)
    assert result.status is dno.Status.FINISHED
    files = dno.open_run(tmp_path / "run").files("last")
    names = ["last.wav"] if batch == 1 else ["last-0.wav", "last-1.wav"]
    assert [file.name for file in files] == names
    for file, sound in zip(files, result.last.samples, strict=True):
        with wave.open(str(file)) as played:
            assert played.getparams()[:4] == (2, 2, 8_000, 400)
            levels = np.frombuffer(played.readframes(400), "<i2").reshape(400, 2).T
        assert np.abs(levels / 32767 - sound.numpy()).max() < 1e-4
    assert dno.open_run(tmp_path / "run").pictures() == []
    assert [picture.size for picture in result.images] == [(256, 64)] * batch


def test_a_run_of_points_keeps_numbers_alone(tmp_path: Path) -> None:
    result = run(FunctionSampler(torch.tanh, [(100,)]), tmp_path / "run", 2)
    assert result.medium == OTHER
    assert result.images == []
    saved = dno.open_run(tmp_path / "run")
    assert (saved.files(), saved.pictures()) == ([], [])
    assert "<img" not in result._repr_html_()
    assert torch.equal(saved.noise(), result.best.noise_BN)


@pytest.mark.parametrize(
    ("medium", "told"),
    [
        (Medium("image"), "says that they are image: B x 3 x H x W"),
        (Medium("audio"), "says that they are audio: B x C x L"),
        ("video", "should be a dno.plugin.Medium"),
    ],
    ids=str,
)
def test_a_run_whose_samples_are_not_what_the_sampler_says_is_told_in_one_sentence(
    tmp_path: Path, medium: Any, told: str
) -> None:
    with pytest.raises(RunError, match=told) as caught:
        run(MediumSampler(film, [(5, 3)], medium), tmp_path / "run", 1)
    assert "\n" not in str(caught.value)
