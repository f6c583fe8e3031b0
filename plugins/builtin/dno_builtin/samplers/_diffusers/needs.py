"""What a pipeline makes its images from besides a prompt, told from the name of its class.

A name is all that is known before a pipeline is loaded, and all that a wrong request should cost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

PICTURES: Final[Mapping[str, str]] = {
    "image": "a picture to start from",
    "mask": "a mask, white where the picture is painted anew",
    "control_image": "a control image, such as edges or a pose",
}
"""The options that are pictures, and what each is."""

DDIM_PIPELINES: Final = (
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    *(
        f"StableDiffusion{generation}{kind}Pipeline"
        for generation in ("", "XL")
        for kind in (
            "Img2Img",
            "Inpaint",
            "ControlNet",
            "ControlNetImg2Img",
            "ControlNetInpaint",
            "InstructPix2Pix",
            "Adapter",
        )
    ),
)
"""Pipeline classes that `ddim` samples."""

_WORDS: Final[Mapping[str, str]] = {
    "image": (
        "Img2Img|Inpaint|Fill|Pix2Pix|Depth2Img|CycleDiffusion|Upscale|SuperResolution|ImageEdit"
        "|Image(To|2)Video|I2V|I2I|I2VGen|PIAPipeline|ChronoEdit|Framepack|SanaWM|WanAnimate"
        "|Emb2Emb|DualGuided"
    ),
    "mask": "Inpaint|Fill",
    "control_image": "ControlNet|Controlnet|Adapter|FluxControl|CogView4Control",
}
"""Words in the names of classes that need each of them."""

_BUT: Final[Mapping[str, str]] = {
    "image": (
        "EasyAnimate|StableAudio|EditPlus|LTXI2VLong|Pix2PixZero|QwenImageControlNetInpaint"
        "|ControlNetInpainting"
    ),
    "mask": "EasyAnimate|StableAudio",
    "control_image": "AnimateDiff|VideoToVideo|BlipDiffusion|KandinskyV22Controlnet",
}
"""Words in the names of those among them that take it in a form of their own, or not at all."""


def needed(name: str) -> list[str]:
    """Options that a pipeline of that class cannot do without, of `PICTURES`."""
    found = []
    for option, words in _WORDS.items():
        if re.search(words, name) and not re.search(_BUT[option], name):
            found.append(option)
    return found


def spelled(option: str) -> str:
    """An option of a sampler as Python and as the command line have it."""
    return f"`{option}` (--{option.replace('_', '-')} FILE)"
