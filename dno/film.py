"""Frames of a run: small pictures of all samples on the way, in a folder of their own.

frames/000012.webp  the samples of iteration 12, in rows of cells of one size

Which iterations have one is a function of how far the run has come alone, so that a run that was
killed and resumed keeps the same ones as a run that was not.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dno.errors import RunError
from dno.files import read_file, write_file
from dno.wording import named, reason

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER: Final = "frames"
MOST: Final = 60
"""Frames of a run, at most."""

_NAME: Final = re.compile(r"(\d{6,9})\.webp")
_EDGE: Final = 256
"""Pixels of the longer side of a sample's cell, at most."""
_PIXELS: Final = 2**20
"""Pixels of a frame, at most: many samples have smaller cells."""
_LEAST_EDGE: Final = 32
_SHARP: Final = 2**14
"""Pixels of a frame up to which it is kept without loss: on so few, loss is seen."""
_LARGEST: Final = 2**23
"""Bytes of a frame that is read back, at most."""
_SHOWN_FOR: Final = 4000
"""Milliseconds that an animation takes to its last frame."""
_HELD_FOR: Final = 1500
"""Milliseconds that the last one stays."""


def stride(iteration: int) -> int:
    """Iterations from one frame to the next in a run that has come so far: a power of two."""
    found = 1
    while iteration // found + 1 > MOST:
        found *= 2
    return found


@dataclass(frozen=True)
class Layout:
    """How a frame is divided among samples."""

    cells: int
    """Samples that are shown, the first ones; so many that each can still be seen."""
    columns: int

    @property
    def rows(self) -> int:
        """Rows of cells, the last perhaps not full."""
        return math.ceil(self.cells / self.columns)

    @classmethod
    def of(cls, samples: int) -> Layout:
        """The layout of so many samples, nearly square."""
        cells = max(1, min(samples, _PIXELS // _LEAST_EDGE**2))
        return cls(cells, math.ceil(math.sqrt(cells)))


def frame(pictures: Sequence[Image]) -> bytes:
    """A WebP file of samples side by side.

    Args:
        pictures: one a sample, all of a size.
    """
    from PIL import Image

    layout = Layout.of(len(pictures))
    size = _cell_size(pictures[0].size, layout.cells)
    sheet = Image.new("RGB", (layout.columns * size[0], layout.rows * size[1]))
    for i, picture in enumerate(pictures[: layout.cells]):
        row, column = divmod(i, layout.columns)
        small = picture if picture.size == size else picture.resize(size, Image.Resampling.BOX)
        sheet.paste(small, (column * size[0], row * size[1]))

    data = io.BytesIO()
    if sheet.width * sheet.height <= _SHARP:
        sheet.save(data, "WEBP", lossless=True, quality=0, method=0)
    else:
        sheet.save(data, "WEBP", quality=85, method=2)
    return data.getvalue()


def _cell_size(size: tuple[int, int], cells: int) -> tuple[int, int]:
    """Width and height of a cell: the picture's own, or less where that would be too many."""
    longest = min(_EDGE, math.isqrt(_PIXELS // cells))
    scale = min(1.0, longest / max(size))
    width, height = size
    return max(1, round(width * scale)), max(1, round(height * scale))


def frames_in(folder: Path) -> Mapping[int, Path]:
    """The frames in a run folder by iteration, in order; links are passed over."""
    place = folder / FOLDER
    if place.is_symlink() or not place.is_dir():
        return {}
    found = {}
    for path in place.iterdir():
        match = _NAME.fullmatch(path.name)
        if match is not None and not path.is_symlink():
            found[int(match[1])] = path
    return dict(sorted(found.items()))


class Film:
    """Keeps the frames of one run.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stride = 1

    def begin(self, start: int) -> None:
        """Remove what an earlier process left of iterations that this one makes again.

        Args:
            start: the first iteration of this process.

        Raises:
            RunError: the folder leads elsewhere, or may not be written.
        """
        self._stride = stride(max(start - 1, 0))
        self._thin(start)

    def keep(self, iteration: int, pictures: Sequence[Image]) -> None:
        """Write the frame of an iteration, and remove those that are too many by it.

        Raises:
            RunError: the folder leads elsewhere, or may not be written.
        """
        if pictures:
            self._check_place()
            name = f"{iteration:06d}.webp"
            write_file(self._folder / FOLDER / name, frame(pictures))
        if stride(iteration) != self._stride:
            self._stride = stride(iteration)
            self._thin(iteration + 1)

    def wants(self, iteration: int) -> bool:
        """Whether an iteration has a frame, when it is reached."""
        return iteration % stride(iteration) == 0

    def _thin(self, end: int) -> None:
        self._check_place()
        try:
            for iteration, path in frames_in(self._folder).items():
                if iteration >= end or iteration % self._stride:
                    path.unlink(missing_ok=True)
        except OSError as error:
            place = named(self._folder / FOLDER)
            raise RunError(f"{place} cannot be thinned: {reason(error)}") from error

    def _check_place(self) -> None:
        place = self._folder / FOLDER
        if place.is_symlink():
            raise RunError(
                f"{named(place)} is a link, and frames are written into the run folder alone; "
                "remove it"
            )


def read_frame(path: Path) -> tuple[bytes, Image]:
    """A frame that somebody kept, as it is and decoded.

    Raises:
        OSError: it cannot be read, or is no picture.
        ValueError: it is larger than any frame of ours.
    """
    from PIL import Image

    data = read_file(path, limit=_LARGEST)
    with Image.open(io.BytesIO(data), formats=["WEBP"]) as picture:
        if picture.width * picture.height > 2 * _PIXELS:
            raise ValueError("it is larger than a frame")
        return data, picture.convert("RGB")


def animation_of(folder: Path) -> bytes | None:
    """The frames of a run folder as one animated WebP, whose last is held; None without two."""
    decoded: list[Image] = []
    for path in frames_in(folder).values():
        # A frame that cannot be shown is left out: the others still tell the way.
        with contextlib.suppress(OSError, ValueError):
            decoded.append(read_frame(path)[1])
    shown = [picture for picture in decoded if picture.size == decoded[0].size]
    if len(shown) < 2:
        return None

    each = min(max(_SHOWN_FOR // len(shown), 60), 400)
    data = io.BytesIO()
    shown[0].save(
        data,
        "WEBP",
        save_all=True,
        append_images=shown[1:],
        duration=[each] * (len(shown) - 1) + [_HELD_FOR],
        loop=0,
        quality=85,
    )
    return data.getvalue()
