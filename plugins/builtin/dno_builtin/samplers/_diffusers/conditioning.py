"""From pictures and what goes with them to a pipeline that takes them, and its call's arguments."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch

from dno.plugin import ConfigError, first_line, quiet

from .inputs import check_channels, check_given
from .needs import PICTURES, needed
from .pictures import as_mask, as_rgb, cut

if TYPE_CHECKING:
    from PIL.Image import Image

_OTHER_NAMES = {
    "mask": ("mask_image", "mask", "control_mask"),
    "control_scale": ("controlnet_conditioning_scale", "adapter_conditioning_scale"),
}
"""What calls name our options, where that is not their own name."""

_IMAGE_TO_VIDEO = {"LTXPipeline": "LTXImageToVideoPipeline"}
"""Text-to-video pipelines that set pictures in motion with the same weights."""

_ONE_PICTURE = ("Flux2", "EditPlus", "Omni", "QwenImage21", "GlmImage")
"""Words in the names of classes to which a list of pictures is several for one prompt."""

_FAR_OFF = 4
"""Times more, or fewer, pixels than a model draws by itself."""


def arguments(cls: type) -> dict[str, str]:
    """What a pipeline's call names the options that it takes, by the option's name."""
    known = inspect.signature(cls.__call__).parameters
    found: dict[str, str] = {}
    for option in ("image", "mask", "control_image", "strength", "image_guidance_scale"):
        for name in _OTHER_NAMES.get(option, (option,)):
            if name in known:
                found.setdefault(option, name)
    for name in _OTHER_NAMES["control_scale"]:
        if name in known:
            found.setdefault("control_scale", name)

    # To pipelines that take control alone it is their `image`.
    control_alone = "control_image" in needed(cls.__name__) and "control_image" not in found
    if control_alone and "image" in found:
        found["control_image"] = found.pop("image")
    return found


def fitted(pipe: Any, inputs: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """The pipeline, or another of the same parts that takes what is given.

    Args:
        pipe: left as it is.
        inputs: the options that are given, as `InputsConfig.inputs` has them.
        dtype: of a ControlNet that is loaded.

    Raises:
        ConfigError: diffusers has no such pipeline, or it needs what is not given.
    """
    controlnet = inputs.get("controlnet")
    if controlnet is not None:
        pipe = _with_controlnet(pipe, controlnet, dtype)

    # Not imported above: they import every pipeline that diffusers has.
    taken = arguments(type(pipe))
    if "mask" in inputs and "mask" not in taken:
        pipe = _converted(pipe, diffusers.AutoPipelineForInpainting, "mask")
    elif "image" in inputs and "image" not in taken:
        pipe = _converted(pipe, diffusers.AutoPipelineForImage2Image, "image")

    name = type(pipe).__name__
    taken = arguments(type(pipe))
    for option in inputs:
        if option in taken or option == "controlnet":
            continue
        hint = ""
        if option == "control_image":
            hint = "; name a ControlNet for it as `controlnet`"
        raise ConfigError(f"{name} takes no {option.replace('_', ' ')}{hint}", at=option)

    check_given(name, inputs)
    unet = getattr(pipe, "unet", None)
    if unet is not None:
        check_channels(unet.config.get("in_channels"), inputs)
    return pipe


def _with_controlnet(pipe: Any, name: str, dtype: torch.dtype) -> Any:
    """The pipeline's parts and a ControlNet, in the pipeline that takes both."""
    if hasattr(pipe, "controlnet"):
        raise ConfigError(
            f"the model is a {type(pipe).__name__}, which has one; leave it out", at="controlnet"
        )

    wanted = type(pipe).__name__.replace("Pipeline", "ControlNetPipeline")
    cls = getattr(diffusers, wanted, None)
    kinds = [part for part in _modules_of(cls) if "ControlNet" in part] if cls else []
    if not kinds:
        raise ConfigError(
            f"diffusers has no {type(pipe).__name__} with a ControlNet", at="controlnet"
        )

    path = Path(name).expanduser()
    if not path.is_dir() and (name.count("/") != 1 or path.is_absolute() or name[0] in ".~"):
        raise ConfigError(f"there is no folder {path}", at="controlnet")
    try:
        with quiet():
            part = getattr(diffusers, kinds[0]).from_pretrained(
                str(path) if path.is_dir() else name, torch_dtype=dtype, use_safetensors=True
            )
            return diffusers.AutoPipelineForText2Image.from_pipe(pipe, controlnet=part)
    # Loading reaches several libraries, each with errors of its own.
    except Exception as error:
        raise ConfigError(
            f'"{name}" cannot be put beside the model: {first_line(error)}', at="controlnet"
        ) from error


def _modules_of(cls: Any) -> Sequence[str]:
    """Names of the classes that a pipeline's ControlNet may be of."""
    annotation = str(inspect.signature(cls.__init__).parameters["controlnet"].annotation)
    words = annotation.replace("|", " ").replace("[", " ").replace("]", " ").split()
    names = [word.rpartition(".")[2].strip("'>") for word in words]
    return [name for name in names if hasattr(diffusers, name) and "Multi" not in name]


def _converted(pipe: Any, auto: Any, option: str) -> Any:
    """The same parts in the pipeline of diffusers that takes a picture, or a picture and a mask."""
    name = type(pipe).__name__
    with quiet():
        try:
            if option == "image" and name in _IMAGE_TO_VIDEO:
                return getattr(diffusers, _IMAGE_TO_VIDEO[name])(**pipe.components)
            return auto.from_pipe(pipe)
        except ValueError as error:
            raise ConfigError(
                f"{name} takes no {option}, and diffusers has no form of it that does "
                f"({first_line(error)[:120]})",
                at=option,
            ) from None


@dataclass(frozen=True)
class Prepared:
    """The pictures of a run at the size of what is drawn."""

    pictures: Mapping[str, Image]
    """By the name of the call's argument."""
    size: tuple[int, int] | None
    """Height and width, where pictures decide them."""

    def of(self, cls: type, items: int) -> dict[str, Any]:
        """The arguments of a call for so many samples, each of which has the same pictures."""
        found: dict[str, Any] = {}
        for name, picture in self.pictures.items():
            found[name] = [picture] * items
            if any(word in cls.__name__ for word in _ONE_PICTURE):
                found[name] = picture
            elif "num_frames" in inspect.signature(cls.__call__).parameters:
                # Pipelines that make videos take no lists; the first of several in a tensor.
                found[name] = picture if items == 1 else _tensor(picture, items)
        return found


def prepare(
    pipe: Any, inputs: Mapping[str, Any], height: int | None, width: int | None
) -> Prepared:
    """Read the pictures, and bring them to the size that is asked for, or that the first has.

    Args:
        pipe: what takes them, see `fitted`.
        inputs: the options that are given.
        height, width: in pixels, where they are given.

    Raises:
        ConfigError: a picture cannot be read, is too large for the model, or marks nothing.
    """
    read = {name: inputs[name].read(name) for name in PICTURES if name in inputs}
    if not read:
        return Prepared({}, None)

    first = next(iter(read))
    height, width = _size(pipe, read[first].size, height, width, inputs[first].path, first)
    names = arguments(type(pipe))
    pictures = {}
    for option, picture in read.items():
        if option == "mask":
            mask = cut(as_mask(picture), width, height, smooth=False)
            # How many pixels there are of each level that counts as white.
            if not any(mask.histogram()[128:]):
                raise ConfigError(
                    "is black everywhere, so that nothing would be repainted; white marks what "
                    "is painted anew",
                    at="mask",
                )
            pictures[names[option]] = mask
        else:
            pictures[names[option]] = cut(as_rgb(picture), width, height)
    return Prepared(pictures, (height, width))


def _size(
    pipe: Any,
    own: tuple[int, int],
    height: int | None,
    width: int | None,
    path: str,
    option: str,
) -> tuple[int, int]:
    """Height and width to draw at: as asked for, or the picture's, in whole units of the model."""
    unit = _unit(pipe)

    def whole(side: float) -> int:
        return max(unit, round(side / unit) * unit)

    wide, high = own
    if height is not None or width is not None:
        # The side that is not given follows from the picture's shape.
        height = height or whole((width or 0) * high / wide)
        width = width or whole(height * wide / high)
        return height, width

    # As diffusers does, what is left over a whole unit is lost.
    height = max(unit, high // unit * unit)
    width = max(unit, wide // unit * unit)
    pixels = _own_pixels(pipe)
    if pixels is None or pixels / _FAR_OFF <= high * wide <= pixels * _FAR_OFF:
        return height, width

    scale = math.sqrt(pixels / (high * wide))
    than = "more" if high * wide > pixels else "fewer"
    raise ConfigError(
        f"{path} has {wide} x {high} pixels, many {than} than the model draws; say how large to "
        f"draw, such as sampler.width = {whole(wide * scale)} and sampler.height = "
        f"{whole(high * scale)}",
        at=option,
    )


def _unit(pipe: Any) -> int:
    """What the sides of a pipeline's images are multiples of, in pixels."""
    factor = getattr(pipe, "vae_scale_factor", 8)
    for name in ("image_processor", "video_processor"):
        config = getattr(getattr(pipe, name, None), "config", None)
        factor = getattr(config, "vae_scale_factor", factor)

    patch = getattr(getattr(getattr(pipe, "transformer", None), "config", None), "patch_size", 1)
    if isinstance(patch, (list, tuple)):
        patch = patch[-1]
    # The pipelines themselves ask for multiples of 8.
    return math.lcm(8, int(factor) * int(patch or 1))


def _own_pixels(pipe: Any) -> int | None:
    """How many pixels the model's own images have; None where it does not say."""
    known = inspect.signature(type(pipe).__call__).parameters
    sides = [getattr(known.get(name), "default", None) for name in ("height", "width")]
    given = [side for side in sides if isinstance(side, int)]
    if len(given) == 2:
        return math.prod(given)

    scale = int(getattr(pipe, "vae_scale_factor", 8))
    for name in ("unet", "transformer"):
        config = getattr(getattr(pipe, name, None), "config", None)
        latent = getattr(config, "sample_size", None)
        if isinstance(latent, int):
            return (latent * scale) ** 2
        if isinstance(latent, (list, tuple)):
            return math.prod(int(side) * scale for side in latent)
    return None


def _tensor(picture: Image, items: int) -> Any:
    """The picture as diffusers takes tensors, `B x 3 x H x W` in [0, 1]."""
    import numpy as np

    pixels_HWC = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)
    return pixels_HWC.permute(2, 0, 1)[None].repeat(items, 1, 1, 1)
