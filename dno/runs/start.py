"""Where a run starts, as people have it: a path, an earlier result, noise, a picture.

A path stays one. What Python holds in memory is kept in the run folder, as `start.safetensors` or
`start.png`, and `run.toml` names that file.
"""

# Read for every command: torch and Pillow are imported where there is something of theirs.

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from dno.core.result import Outcome, Snapshot
from dno.errors import ConfigError
from dno.paths import user_path
from dno.wording import named, reason, short

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from dno.runs.run_config import RunConfig

LIVE: Final = "python"
"""The only key of the table that stands, in a saved run, for a value that was a Python object."""
_DIGITS: Final = 12
"""Of a digest, as many as tell the starts of a study apart."""


class GivenNoise:
    """Noise to start from that is in memory.

    Args:
        noise: `N` or `B x N`, all draws of each sample in a row; or the first draw alone, such as a
            pipeline's `latents`, in its own shape and with or without `B` before it.
    """

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise.detach().cpu().clone()

    def digest(self) -> str:
        """What tells it from other noise."""
        return _digest(str(tuple(self.noise.shape)), self.noise.double().numpy().tobytes())


class GivenPicture:
    """A picture to start from that is in memory, turned and coloured as people see it."""

    def __init__(self, picture: Image) -> None:
        self.picture = _as_seen(picture)

    def digest(self) -> str:
        """What tells it from other pictures."""
        return _digest(str(self.picture.size), self.picture.tobytes())


Start: TypeAlias = Path | GivenNoise | GivenPicture


def start_of(value: Any) -> Start | None:
    """Where to start, of whatever says so.

    Args:
        value: the path of a run folder, of a file of noise or of a picture; a run that was read
            back; a result, or one of its snapshots; a tensor or array of noise; a picture of
            Pillow.

    Raises:
        ConfigError: it is none of these, or noise that cannot be any.
    """
    if value is None or isinstance(value, (GivenNoise, GivenPicture)):
        return value
    if isinstance(value, (str, os.PathLike)):
        return Path(os.fspath(value))
    if isinstance(value, Outcome):
        return _given_noise(value.best.noise_BN)
    if isinstance(value, Snapshot):
        return _given_noise(value.noise_BN)
    if _is_tensor(value):
        return _given_noise(value)
    # A picture of Pillow, told by what it does: importing Pillow takes a while.
    if all(hasattr(value, name) for name in ("convert", "tobytes", "mode", "getexif")):
        return GivenPicture(value)
    if isinstance(value, dict) and list(value) == [LIVE]:
        raise ConfigError(
            f"was {named(value[LIVE])}, in Python, and was kept nowhere; give it again there"
        )
    raise ConfigError(
        "should be a run folder, a file of noise, a picture, a result or one of its snapshots, or "
        f"a tensor of noise, got {short(value)}"
    )


def dump_start(start: Start) -> Any:
    """A start as a file can hold it; what is in memory is only named, with its digest."""
    if isinstance(start, Path):
        return str(start)
    kind = "noise" if isinstance(start, GivenNoise) else "a picture"
    return {LIVE: f"{kind}, {start.digest()}"}


def noise_file(path: Path) -> Path:
    """The file with the noise of a run folder; a file is itself."""
    return path / "noise.safetensors" if path.is_dir() else path


def picture_at(path: Path) -> Image | None:
    """The picture in a file, as people see it; None where it is another kind of file."""
    if path.is_dir() or path.suffix == ".safetensors":
        return None
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return _as_seen(picture)
    except UnidentifiedImageError:
        return None
    # Pillow has no one error for broken files.
    except Exception as error:
        raise ConfigError(
            f"{named(path)} cannot be read as a picture: {reason(error)}", at="start"
        ) from None


def check_start(config: RunConfig) -> None:
    """Raise `ConfigError` for a start that is certain to fail; loads no model."""
    start = config.start
    if start is None:
        return
    if getattr(config.sampler, "start_image", None) is not None:
        raise ConfigError(
            "says where to start, and so does sampler.start_image; leave one of them out",
            at="start",
        )

    if isinstance(start, GivenNoise):
        _check_rows(start.noise, len(config.items()))
        return
    if isinstance(start, Path):
        path = user_path(start, at="start")
        file = noise_file(path)
        if not file.is_file():
            raise ConfigError(f"there is no file {named(file)}", at="start")
        if picture_at(path) is None:
            _check_noise_file(file)


def _check_noise_file(file: Path) -> None:
    """Raise `ConfigError` for a file that cannot hold tensors; safetensors begin with a length of
    eight bytes and a table in JSON.
    """
    try:
        with file.open("rb") as opened:
            head = opened.read(9)
    except OSError as error:
        raise ConfigError(f"{named(file)} cannot be read: {reason(error)}", at="start") from None
    if head[8:] != b"{":
        raise ConfigError(
            f'{named(file)} holds no noise as a run saves it, a tensor "best", and is no picture '
            "that can be read",
            at="start",
        )


def _check_rows(noise: Tensor, samples: int) -> None:
    """Raise `ConfigError` where flat noise has neither one row nor one for each sample."""
    if noise.dim() == 2 and len(noise) not in (1, samples):
        raise ConfigError(
            f"holds noise of {len(noise)} samples, this run has {samples}; give as many rows, or "
            "one for all",
            at="start",
        )


def _given_noise(noise: Any) -> GivenNoise:
    import torch

    tensor = noise if torch.is_tensor(noise) else torch.tensor(noise)
    shape = " x ".join(map(str, tensor.shape)) or "nothing"
    if not tensor.is_floating_point() or not tensor.numel():
        raise ConfigError(f"should be noise, floating-point numbers, got {shape} of {tensor.dtype}")
    if not tensor.isfinite().all():
        raise ConfigError("holds noise that is not finite; start from another")
    return GivenNoise(tensor)


def _is_tensor(value: object) -> bool:
    """Whether it is a tensor of torch or an array of numpy; neither is imported for it."""
    for library, kind in (("torch", "Tensor"), ("numpy", "ndarray")):
        module = sys.modules.get(library)
        if module is not None and isinstance(value, getattr(module, kind)):
            return True
    return False


def _as_seen(picture: Image) -> Image:
    """A picture in RGB, turned as its EXIF data say."""
    from PIL import ImageOps

    turned: Image = ImageOps.exif_transpose(picture)
    return turned.convert("RGB")


def _digest(shape: str, data: bytes) -> str:
    return hashlib.sha256(shape.encode() + data).hexdigest()[:_DIGITS]
