"""The `ddim` sampler's options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from dno.plugin import BuildContext, ConfigError

from ._diffusers.folder import PIPELINES, check_size, check_steps, read_json
from ._diffusers.options import DiffusersConfig

if TYPE_CHECKING:
    from ._ddim import DDIMSampler


class DDIM(DiffusersConfig):
    """Stable Diffusion 1.x, 2.x or XL, sampled by DDIM (Song et al. 2021) with all its noise
    exposed.
    """

    classes: ClassVar[Sequence[str] | None] = PIPELINES

    steps: Annotated[int, Field(ge=1)] = 50
    """Denoising steps."""
    eta: Annotated[float, Field(ge=0, le=1)] = 1.0
    """How much noise each step adds: 0 adds none, so that only the first latent moves; 1 is DDPM's
    variance, and every step's noise moves."""
    guidance_scale: Annotated[float, Field(ge=0)] = 5.0
    """Weight of classifier-free guidance; up to 1 there is none, at half the cost."""
    start_image: Path | None = None
    """A picture to start from in place of the seeds' noise: the noise is found from which DDIM
    draws it. At eta = 0 that is exact only without guidance; at eta > 0 seeds decide what the
    picture leaves open."""

    def check(self) -> None:
        """Raise `ConfigError` where the model is missing, is no Stable Diffusion pipeline, or does
        not suit.
        """
        if self.start_image is not None:
            _check_picture(self.start_image.expanduser())
        if self.start_image is not None and self.last_steps is not None:
            raise ConfigError("needs all the noise to move; leave last_steps out", at="start_image")
        if self.last_steps is not None and self.last_steps > self.steps:
            raise ConfigError(
                f"must be at most {self.steps}, the number of steps, got {self.last_steps}",
                at="last_steps",
            )
        folder = self.folder()
        if folder is None:
            return
        levels = read_json(folder / "scheduler" / "scheduler_config.json").get(
            "num_train_timesteps", 1000
        )
        check_steps(self.steps, int(levels))
        blocks = read_json(folder / "vae" / "config.json").get("block_out_channels", [0] * 4)
        for at, size in (("height", self.height), ("width", self.width)):
            check_size(at, size, 2 ** (len(blocks) - 1))

    def build(self, ctx: BuildContext) -> DDIMSampler:
        """Load the model and put DDIM on it.

        Raises: ConfigError: the pipeline cannot be loaded, is not one that `ddim` samples, or an
            option does not suit it.
        """
        from ._ddim import DDIMSampler

        options = self.model_dump(exclude={"model", "revision", "loras"})
        return DDIMSampler(self.load(ctx), device=ctx.device, dtype=ctx.dtype, **options)


def _check_picture(path: Path) -> None:
    from PIL import Image

    if not path.is_file():
        raise ConfigError(f"there is no file {path}", at="start_image")
    try:
        with Image.open(path) as picture:
            picture.verify()
    except (OSError, ValueError, SyntaxError) as error:
        raise ConfigError(
            f"{path} cannot be read as a picture: {error}", at="start_image"
        ) from None
