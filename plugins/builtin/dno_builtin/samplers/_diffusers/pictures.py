"""Pictures that a run is given: found, read as people see them, and known again by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PrivateAttr,
    WithJsonSchema,
    model_validator,
)

from dno.plugin import ConfigError, Origin

if TYPE_CHECKING:
    from PIL.Image import Image

_LIVE = "python:"
"""What the path of a picture begins with that was given as an object, which no file holds."""


class Picture(BaseModel):
    """A picture by its path, with the digest of the file as it was when the run began."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """Absolute path of the file."""
    sha256: str | None = None
    """SHA-256 of the file's bytes; that of the file as it is, if not given."""
    _live: Any = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _placed(self) -> Self:
        """Make the path absolute, and note what is there."""
        if self.path.startswith(_LIVE):
            return self

        path = Path(self.path).expanduser().absolute()
        # What pydantic means a validator to do; the model is frozen for everybody else.
        object.__setattr__(self, "path", str(path))
        if self.sha256 is None:
            object.__setattr__(self, "sha256", _digest_of(path))
        return self

    def check(self, at: str) -> None:
        """Raise `ConfigError` unless the file is there, is a picture, and is the one meant.

        Args:
            at: the option that it was given with.
        """
        if self._live is not None:
            return
        if self.path.startswith(_LIVE):
            raise ConfigError(
                "was a picture in Python, which no file holds; give the path of a file", at=at
            )

        path = Path(self.path)
        if path.is_dir():
            raise ConfigError(f"{path} is a folder, not a picture", at=at)
        if not path.is_file():
            raise ConfigError(f"there is no file {path}", at=at)

        if self.sha256 is not None and _digest_of(path) != self.sha256:
            raise ConfigError(
                f"{path} is not the picture that the run began with, its bytes have changed; "
                "put that back, or start a new run with this one",
                at=at,
            )
        _read(path, at).close()

    def read(self, at: str) -> Image:
        """The picture as people see it: turned as its EXIF data say, whatever its mode.

        Raises:
            ConfigError: it is missing, changed, or cannot be read.
        """
        from PIL import ImageOps

        self.check(at)
        picture = self._live
        if picture is None:
            picture = _read(Path(self.path), at)
        turned: Image = ImageOps.exif_transpose(picture)
        return turned


def located_picture(given: Any, origin: Origin, at: str) -> Any:
    """A picture as an option holds it, validated or not, with its path from the root.

    Raises:
        ConfigError: the path cannot be one here.
    """
    path = given.get("path") if isinstance(given, Mapping) else getattr(given, "path", given)
    if not isinstance(path, (str, Path)) or str(path).startswith(_LIVE) or not str(path):
        return given
    try:
        whole = str(origin.path(path))
    except ConfigError as error:
        raise error.inside(at) from None
    if isinstance(given, Picture):
        # Its path is from the root since it was made.
        return given
    return {**given, "path": whole} if isinstance(given, Mapping) else whole


def _picture(value: object) -> object:
    """A path, or a picture that is there already, as a `Picture`."""
    if isinstance(value, (str, Path)):
        if not str(value):
            raise ValueError("should be the path of a picture")
        return Picture(path=str(value))

    # A picture of Pillow, told by what it does: importing Pillow takes a while.
    if hasattr(value, "convert") and hasattr(value, "tobytes") and hasattr(value, "mode"):
        data: bytes = value.tobytes()
        digest = hashlib.sha256(data).hexdigest()
        live = Picture(path=f"{_LIVE}{type(value).__name__}", sha256=digest)
        live._live = value
        return live

    if isinstance(value, (Picture, Mapping)):
        return value
    raise ValueError("should be the path of a picture")


GivenPicture = Annotated[
    Picture,
    BeforeValidator(_picture),
    WithJsonSchema({"type": "string", "format": "path"}),
]
"""A picture as people give it: a path, in Python also one of Pillow's."""


def as_rgb(picture: Image) -> Image:
    """The picture in RGB, 8 bits; what is transparent shows white."""
    from PIL import Image

    picture = _eight_bits(picture)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    seen = picture.convert("RGBA")
    white = Image.new("RGBA", seen.size, "white")
    return Image.alpha_composite(white, seen).convert("RGB")


def as_mask(picture: Image) -> Image:
    """The picture in grey, 8 bits, white where it marks; what is transparent marks nothing."""
    from PIL import Image

    picture = _eight_bits(picture)
    if not picture.has_transparency_data:
        return picture.convert("L")
    seen = picture.convert("RGBA")
    black = Image.new("RGBA", seen.size, "black")
    return Image.alpha_composite(black, seen).convert("L")


def cut(picture: Image, width: int, height: int, *, smooth: bool = True) -> Image:
    """The picture scaled to fill a size, and cut about its middle where its shape is another.

    Args:
        picture: in RGB or grey.
        width: in pixels.
        height: in pixels.
        smooth: whether pixels may be mixed.
    """
    from PIL import Image, ImageOps

    if picture.size == (width, height):
        return picture
    method = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return ImageOps.fit(picture, (width, height), method)


def _eight_bits(picture: Image) -> Image:
    """Pictures of 16 bits, which Pillow would cut off at 255, in 8."""
    if not picture.mode.startswith("I"):
        return picture
    return picture.convert("I").point(lambda level: level / 257).convert("L")


def _read(path: Path, at: str) -> Image:
    from PIL import Image

    try:
        with path.open("rb") as file:
            picture = Image.open(file)
            picture.load()
    # Pillow has no one error for broken files.
    except Exception as error:
        raise ConfigError(f"{path} cannot be read as a picture: {_why(error)}", at=at) from None
    return picture


def _why(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "it is of no format that Pillow knows"
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _digest_of(path: Path) -> str | None:
    """SHA-256 of a file's bytes; None where it cannot be read, or is no plain file."""
    # A device or a pipe might never end.
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
