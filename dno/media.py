"""What samples are: checked, saved as files that people can open, shown as pictures.

A sampler says once what it makes; everything that looks at samples asks here.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from dno.errors import RunError
from dno.wording import short

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Medium:
    """What the samples of a sampler are.

    Args:
        kind: `image`: `B x 3 x H x W`, RGB in [0, 1]. `video`: `B x F x 3 x H x W`, F frames of the
            same. `audio`: `B x C x L`, L moments of C channels in [-1, 1]. `other`: anything else.
        rate: frames or moments a second.
    """

    kind: Literal["image", "video", "audio", "other"]
    rate: float | None = None


IMAGE: Final = Medium("image")
OTHER: Final = Medium("other")

_SHAPES: Final = {
    "image": "B x 3 x H x W",
    "video": "B x F x 3 x H x W",
    "audio": "B x C x L",
}
_FRAMES_A_SECOND: Final = 8.0
_MOMENTS_A_SECOND: Final = 16_000.0


def medium_of(sampled: object, samples: Tensor) -> Medium:
    """What a bound sampler's samples are: what it says, or else what their shape says.

    Args:
        sampled: the bound sampler, whose attribute `medium` decides where it has one.
        samples: some of its samples; without a word of the sampler `B x 3 x H x W` are images.

    Raises:
        RunError: the sampler says something that its samples are not.
    """
    said = getattr(sampled, "medium", None)
    if said is None:
        return IMAGE if _fits("image", samples) else OTHER
    if not isinstance(said, Medium):
        raise RunError(f"the sampler's medium should be a dno.plugin.Medium, got {short(said)}")
    check(said, samples)
    return said


def check(medium: Medium, samples: Tensor) -> None:
    """Raise `RunError` unless the samples have the shape of their medium."""
    if medium.kind != "other" and not _fits(medium.kind, samples):
        raise RunError(
            f"the sampler's samples have shape {tuple(samples.shape)}, but it says that they are "
            f"{medium.kind}: {_SHAPES[medium.kind]}"
        )


def _fits(kind: str, samples: Tensor) -> bool:
    shape = samples.shape
    if kind == "image":
        return len(shape) == 4 and shape[1] == 3
    if kind == "video":
        return len(shape) == 5 and shape[2] == 3
    return len(shape) == 3


def pictures(images: Tensor) -> list[Image]:
    """8-bit RGB pictures of `B x 3 x H x W` images, clamped to [0, 1], on any device.

    Raises:
        RunError: the tensor is not a batch of RGB images.
    """
    from PIL import Image

    if not _fits("image", images):
        raise RunError(f"pictures need samples of shape B x 3 x H x W, got {tuple(images.shape)}")
    levels = (images.detach().float().clamp(0, 1) * 255).round().byte()
    return [Image.fromarray(pixels) for pixels in levels.permute(0, 2, 3, 1).cpu().numpy()]


def thumbnails(medium: Medium, samples: Tensor) -> list[Image]:
    """A picture that stands for each sample: itself, the middle frame, the waveform; else none."""
    if medium.kind == "image":
        return pictures(samples)
    if medium.kind == "video":
        return pictures(samples[:, samples.shape[1] // 2])
    if medium.kind == "audio":
        return [_waveform(sound) for sound in samples.detach().float().cpu()]
    return []


def encoded(
    medium: Medium,
    samples: Tensor,
    texts: Callable[[int, tuple[int, int]], Mapping[str, str]] | None = None,
) -> list[tuple[str, bytes]]:
    """Each sample as a file that people can open: its ending and its bytes; none for `other`.

    Images become PNG, videos animated WebP, sounds 16-bit WAV.

    Args:
        medium: what they are.
        samples: the samples.
        texts: what the picture of a sample, by its row and its size, carries; see `png`.
    """
    if medium.kind == "image":
        files = []
        for row, picture in enumerate(pictures(samples)):
            about = texts(row, picture.size) if texts is not None else {}
            files.append((".png", png(picture, about)))
        return files
    if medium.kind == "video":
        rate = medium.rate or _FRAMES_A_SECOND
        return [(".webp", _webp(pictures(frames), rate)) for frames in samples]
    if medium.kind == "audio":
        rate = medium.rate or _MOMENTS_A_SECOND
        return [(".wav", _wav(sound, rate)) for sound in samples]
    return []


def png(picture: Image, texts: Mapping[str, str] | None = None) -> bytes:
    """A picture as a PNG file.

    Args:
        picture: the picture.
        texts: what it carries, by keyword (1 to 79 characters of Latin-1).
    """
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    for keyword, text in (texts or {}).items():
        if keyword == "parameters":
            # In the plainer kind of chunk where that can hold it: some readers know no other.
            about.add_text(keyword, text)
        else:
            about.add_itxt(keyword, text)
    data = io.BytesIO()
    picture.save(data, "PNG", pnginfo=about)
    return data.getvalue()


def side_by_side(row: list[Image]) -> Image:
    """One picture of several of a size, from left to right."""
    from PIL import Image

    wide = Image.new("RGB", (sum(picture.width for picture in row), row[0].height))
    left = 0
    for picture in row:
        wide.paste(picture, (left, 0))
        left += picture.width
    return wide


def _webp(frames: list[Image], rate: float) -> bytes:
    data = io.BytesIO()
    frames[0].save(
        data,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=round(1000 / rate),
        loop=0,
    )
    return data.getvalue()


def _wav(sound: Tensor, rate: float) -> bytes:
    import wave

    levels = (sound.detach().float().clamp(-1, 1) * 32767).round().short()
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(len(levels))
        file.setsampwidth(2)
        file.setframerate(round(rate))
        # WAV has the channels of one moment next to one another, least byte first.
        file.writeframes(levels.T.contiguous().cpu().numpy().astype("<i2").tobytes())
    return data.getvalue()


def _waveform(sound: Tensor, width: int = 256, height: int = 64) -> Image:
    """The range of a sound's first channel in each of `width` stretches of time."""
    import torch
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    stretches = torch.tensor_split(sound[0].clamp(-1, 1), min(width, sound.shape[1]))
    for x, stretch in enumerate(stretches):
        top = (1 - float(stretch.max())) / 2 * (height - 1)
        bottom = (1 - float(stretch.min())) / 2 * (height - 1)
        draw.line((x, top, x, bottom), fill="steelblue")
    return picture
