"""Options for what a pipeline is given besides a prompt: pictures, masks, lengths.

They are checked before any model loads, as far as a model's small files tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from dno.plugin import ConfigError, Origin

from .clip_skip import check_clip_skip_of_folder
from .folder import INDEX
from .needs import PICTURES, needed, spelled
from .options import DiffusersConfig
from .pictures import GivenPicture, Picture, located_picture
from .reading import read_json
from .reusable import check_index


class InputsConfig(DiffusersConfig):
    """Base of samplers of diffusers pipelines that may take pictures."""

    image: GivenPicture | None = None
    """A picture to start from, a file: redrawn, repainted where there is a mask, edited or set in
    motion, as the model does. A text-to-image model is used in its image-to-image form."""
    mask: GivenPicture | None = None
    """What of the picture to repaint, a file: white is painted anew, black stays."""
    strength: Annotated[float | None, Field(gt=0, le=1)] = None
    """How far the picture may change: the part of the steps that is taken, 1 being all; the
    pipeline's own if not given."""
    control_image: GivenPicture | None = None
    """What a ControlNet, an adapter or a control model is led by, a file: edges, depth, a pose."""
    controlnet: str | None = None
    """A ControlNet to put beside a text-to-image model: a folder, or a hub id."""
    control_scale: float | None = None
    """Weight of the ControlNet, `controlnet_conditioning_scale`; the pipeline's own if not
    given."""
    image_guidance_scale: float | None = None
    """How closely an editing model such as InstructPix2Pix keeps to the picture; its own if not
    given."""

    @classmethod
    def located(cls, options: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `PluginConfig.located`; pictures are files too."""
        found = super().located(options, origin)
        for name in PICTURES:
            if name in found:
                found[name] = located_picture(found[name], origin, name)
        return found

    def inputs(self) -> dict[str, Any]:
        """The options above that are given, by name."""
        found = {}
        for name in InputsConfig.model_fields:
            value = getattr(self, name)
            if name not in DiffusersConfig.model_fields and value is not None:
                found[name] = value
        return found

    def check_inputs(self, steps: int | None, options: Mapping[str, Any] | None = None) -> None:
        """Raise `ConfigError` where pictures are missing, unreadable, or do not go together, or the
        model's small files say that it does not take what is given.

        Args:
            steps: denoising steps, where they are known.
            options: other arguments of the pipeline's call.
        """
        given = self.inputs()
        for name in PICTURES:
            if isinstance(given.get(name), Picture):
                given[name].check(name)

        if self.mask is not None and self.image is None:
            raise ConfigError("marks what of a picture to repaint; give it as `image`", at="mask")
        if self.control_scale is not None and self.control_image is None:
            raise ConfigError(
                "weighs a control image; give it as `control_image`", at="control_scale"
            )
        if self.controlnet is not None and self.control_image is None:
            raise ConfigError(
                f"needs a control image; give it as {spelled('control_image')}", at="controlnet"
            )
        for name in ("strength", "image_guidance_scale"):
            if given.get(name) is not None and self.image is None:
                raise ConfigError("is of a picture; give it as `image`", at=name)
        if self.strength is not None and steps is not None and int(self.strength * steps) < 1:
            raise ConfigError(
                f"leaves no step of {steps}; should be at least {1 / steps:.2g}, or more steps "
                "taken",
                at="strength",
            )

        self._check_files(given, options or {})

    def _check_files(self, given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Raise `ConfigError` where the model's small files say that it needs a picture, or has no
        use for an option."""
        folder = self.folder()
        if folder is None:
            return
        index = read_json(folder / INDEX)
        name = index.get("_class_name", "")
        check_given(name, given)
        if self.reuse > 1:
            check_index(index)
        check_clip_skip_of_folder(folder, index, options)

        # Models that inpaint are also saved as plain pipelines.
        channels = read_json(folder / "unet" / "config.json").get("in_channels")
        check_channels(channels, given)


def check_given(name: str, given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where a pipeline of that class needs an option that is not given.

    Args:
        name: the class.
        given: options by name.
    """
    for option in needed(name):
        if option not in given:
            raise ConfigError(
                f"a {name} needs {PICTURES[option]}; give it as {spelled(option)}", at=option
            )


def check_channels(channels: object, given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where a UNet of so many input channels needs what is not given."""
    if channels != 9:
        return
    for option in ("image", "mask"):
        if option not in given:
            raise ConfigError(
                f"the model's network takes 9 channels, those of a model that repaints, and needs "
                f"{PICTURES[option]}; give it as {spelled(option)}",
                at=option,
            )
