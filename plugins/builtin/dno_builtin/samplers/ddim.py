"""The `ddim` sampler's options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field

from dno.plugin import BuildContext, ConfigError, quiet

from ._diffusers.folder import check_size, check_steps, read_levels, read_scale, read_scheduler
from ._diffusers.inputs import InputsConfig
from ._diffusers.kinds import check_ddim
from ._diffusers.needs import DDIM_PIPELINES, PICTURES

if TYPE_CHECKING:
    from ._ddim import DDIMSampler


class DDIM(InputsConfig):
    """Stable Diffusion 1.x, 2.x or XL, sampled by DDIM (Song et al. 2021), its noise exposed."""

    classes: ClassVar[Sequence[str] | None] = DDIM_PIPELINES

    steps: Annotated[int, Field(ge=1)] = 50
    """Denoising steps."""
    eta: Annotated[float, Field(ge=0, le=1)] = 1.0
    """How much noise each step adds: 0 adds none, so that only the first latent moves; 1 is DDPM's
    variance, and every step's noise moves."""
    guidance_scale: Annotated[float, Field(ge=0)] = 5.0
    """Weight of classifier-free guidance; up to 1 there is none, at half the cost."""
    start_image: Path | None = None
    """A picture to start from in place of the seeds' noise: noise is searched for that is as
    ordinary as the seeds' own and from which DDIM draws it to 4/255, in up to 80 evaluations with
    gradient. Where none is found the run is refused, and why. The prompt should say what the
    picture shows."""

    def check(self) -> None:
        """Raise `ConfigError` where the model is missing, or an option does not suit it."""
        self._check_start_and_last_steps()
        self.check_inputs(self.steps)

        folder = self.folder()
        # What is not here yet is checked once it is loaded.
        if folder is None:
            return

        check_ddim(read_scheduler(folder), whole=False)
        check_steps(self.steps, read_levels(folder))
        scale = read_scale(folder)
        check_size("height", self.height, scale)
        check_size("width", self.width, scale)

    def _check_start_and_last_steps(self) -> None:
        if self.start_image is not None:
            _check_picture(self.start_image.expanduser())
            for name in PICTURES:
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"is where a text-to-image model starts; leave {name} out", at="start_image"
                    )
            if self.last_steps is not None:
                raise ConfigError(
                    "needs all the noise to move; leave last_steps out", at="start_image"
                )

        if self.last_steps is not None and self.last_steps > self.steps:
            raise ConfigError(
                f"must be at most {self.steps}, the number of steps, got {self.last_steps}",
                at="last_steps",
            )

    def resumed(self) -> Self:
        """The same without a picture to start from: the noise that was found is saved."""
        return self.model_copy(update={"start_image": None})

    def build(self, ctx: BuildContext) -> DDIMSampler:
        """Load the model and put DDIM on it.

        Raises:
            ConfigError: the pipeline cannot be loaded, is not one that `ddim` samples, or an option
                does not suit it.
        """
        # What libraries say while they are imported is no use to who runs this.
        with quiet():
            from ._ddim import DDIMSampler

        pipe = self.load(ctx)
        passed = {
            "steps",
            "eta",
            "guidance_scale",
            "negative_prompt",
            "height",
            "width",
            "memory",
            "last_steps",
            "long_prompts",
            "compile",
            "channels_last",
            "reuse",
            "start_image",
        }
        if ctx.weightless:
            # It is found by sampling, which takes no more memory than the run itself.
            passed.remove("start_image")
        return DDIMSampler(
            pipe,
            inputs=self.inputs(),
            device=ctx.device,
            **self.dtypes(ctx),
            **self.model_dump(include=passed),
        )


def _check_picture(path: Path) -> None:
    from PIL import Image

    if not path.is_file():
        raise ConfigError(f"there is no file {path}", at="start_image")

    try:
        with Image.open(path) as picture:
            picture.verify()
    # Pillow raises a SyntaxError for some broken files.
    except (OSError, ValueError, SyntaxError) as error:
        raise ConfigError(
            f"{path} cannot be read as a picture: {error}", at="start_image"
        ) from None
