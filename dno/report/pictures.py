"""Pictures of a run folder as a page can hold them: small, decoded once, and nobody else's.

Whoever opens a folder may have been sent it: links in it are passed over, so that a page that is
handed on shows nothing that was not in the folder, and what is no picture is left out.
"""

from __future__ import annotations

import base64
import io
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dno.files import read_file
from dno.film import Layout, frames_in, read_frame
from dno.runs.saved import SavedRun

if TYPE_CHECKING:
    from PIL.Image import Image

_EDGE: Final = 640
"""Pixels of a picture's longer side, at most."""
_PIXELS: Final = 5 * 2**20
"""Pixels of all pictures of a run together, at most, its frames apart."""
_LARGEST_FILE: Final = 2**26
_LARGEST: Final = 2**26
"""Bytes and pixels of a picture that is opened."""
_SHARP: Final = 2**15
"""Pixels of a picture up to which it is kept without loss."""
_FRAMES: Final = 6 * 2**20
"""Bytes of all frames of a run together, at most."""
_PNG: Final = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """One sample's picture at one iteration."""

    uri: str
    """A `data:` address that holds it."""
    width: int
    height: int
    iteration: int | None
    """None where that is not known."""


@dataclass(frozen=True)
class Strip:
    """The frames of a run."""

    at: Sequence[int]
    uris: Sequence[str]
    """A `data:` address for each of those iterations."""
    layout: Layout
    width: int
    """Of one sample's cell in pixels, as the next one."""
    height: int


@dataclass(frozen=True)
class Pictures:
    """All pictures of a run; None or empty for what the folder does not have."""

    plain: Sequence[Picture | None]
    best: Sequence[Picture | None]
    last: Sequence[Picture | None]
    strip: Strip | None

    @property
    def any(self) -> bool:
        """Whether there is anything to see."""
        shots = (*self.plain, *self.best, *self.last)
        return self.strip is not None or any(shot is not None for shot in shots)


def pictures_of(
    run: SavedRun,
    samples: int,
    best: Sequence[int | None],
    last: Sequence[int | None],
    *,
    shown: int,
) -> Pictures:
    """What there is to see of a run.

    Args:
        run: the run.
        samples: how many it has.
        best: at which iteration each was at its best.
        last: at which iteration each ended.
        shown: how many samples are shown, the first ones.
    """
    edge = min(_EDGE, math.isqrt(_PIXELS // max(3 * shown, 1)))
    shots = {
        name: _shots(run, name, samples, shown, iterations, edge)
        for name, iterations in {"initial": [0] * samples, "best": best, "last": last}.items()
    }
    # Where a run ended at its best, one picture is both.
    ended = [
        None if shot is not None and iteration == last[i] else shots["last"][i]
        for i, (shot, iteration) in enumerate(zip(shots["best"], best, strict=False))
    ]
    return Pictures(shots["initial"], shots["best"], ended, strip_of(run.path, samples))


def _shots(
    run: SavedRun,
    name: str,
    samples: int,
    shown: int,
    iterations: Sequence[int | None],
    edge: int,
) -> list[Picture | None]:
    found: list[Picture | None] = [None] * shown
    for i, image in enumerate(_opened(run, name, samples, shown)):
        if image is not None:
            found[i] = _picture(image, iterations[i], edge)
    return found


def _opened(run: SavedRun, name: str, samples: int, shown: int) -> list[Image | None]:
    """The pictures of the first samples."""
    files = [path for path in run.files(name) if path.suffix == ".png"]
    if len(files) == samples:
        return [_open(path) for path in files[:shown]]
    # Videos and sounds have a picture of all of them side by side.
    row = _open(run.path / f"{name}.png")
    if row is None or row.width % samples:
        return []
    width = row.width // samples
    return [row.crop((i * width, 0, (i + 1) * width, row.height)) for i in range(shown)]


def small_picture(run: SavedRun, name: str, samples: int, sample: int, edge: int) -> Picture | None:
    """One sample's picture, made small; None where there is none that can be shown.

    Args:
        run: the run.
        name: `initial`, `best` or `last`.
        samples: how many the run has.
        sample: which of them.
        edge: pixels of its longer side, at most.
    """
    opened = _opened(run, name, samples, sample + 1)
    image = opened[sample] if sample < len(opened) else None
    return None if image is None else _picture(image, None, edge)


def _open(path: Path) -> Image | None:
    """A PNG of a run folder; None where it is none, is a link, or is larger than any of ours."""
    from PIL import Image

    if path.is_symlink():
        return None
    try:
        data = read_file(path, limit=_LARGEST_FILE)
        if not data.startswith(_PNG):
            return None
        width, height = struct.unpack(">II", data[16:24])
        if width * height > _LARGEST:
            return None
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            return picture.convert("RGB")
    # What is damaged is told by Pillow with errors of several kinds.
    except (OSError, SyntaxError, ValueError, struct.error):
        return None


def _picture(image: Image, iteration: int | None, edge: int) -> Picture:
    from PIL import Image

    longest = max(image.size)
    if longest > edge:
        size = [max(1, round(side * edge / longest)) for side in image.size]
        image = image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    if image.width * image.height <= _SHARP:
        image.save(data, "WEBP", lossless=True, quality=50)
    else:
        image.save(data, "WEBP", quality=88)
    return Picture(_uri(data.getvalue()), image.width, image.height, iteration)


def strip_of(folder: Path, samples: int) -> Strip | None:
    """The frames of a run folder; None without any.

    Args:
        folder: the run folder.
        samples: how many the run has.
    """
    layout = Layout.of(samples)
    read: list[tuple[int, bytes]] = []
    size = None
    for iteration, path in frames_in(folder).items():
        try:
            data, picture = read_frame(path)
        except (OSError, ValueError):
            continue
        size = size or picture.size
        if picture.size == size:
            read.append((iteration, data))
    if size is None or size[0] % layout.columns or size[1] % layout.rows:
        return None

    while len(read) > 2 and sum(len(data) for _, data in read) > _FRAMES:
        read = read[::2]
    return Strip(
        at=[iteration for iteration, _ in read],
        uris=[_uri(data) for _, data in read],
        layout=layout,
        width=size[0] // layout.columns,
        height=size[1] // layout.rows,
    )


def _uri(data: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"
