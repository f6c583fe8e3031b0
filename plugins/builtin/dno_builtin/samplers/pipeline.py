"""The `pipeline` sampler's options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from dno.plugin import BuildContext, ConfigError, quiet

from ._diffusers.inputs import InputsConfig

if TYPE_CHECKING:
    from ._pipeline import PipelineSampler

_OUR_ARGUMENTS = (
    "prompt",
    "negative_prompt",
    "generator",
    "latents",
    "output_type",
    "return_dict",
    "height",
    "width",
)
"""Arguments of a pipeline's call that the sampler gives it."""

_OUR_OPTIONS = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance_scale",
    "image": "image",
    "mask_image": "mask",
    "control_image": "control_image",
    "strength": "strength",
    "num_frames": "frames",
}
"""Arguments that are options of the sampler, and what it calls them."""

_CLIPPING = ("clip_sample", "thresholding")
"""Options of schedulers that cut gradients where they act."""


class Pipeline(InputsConfig):
    """Any diffusers pipeline that draws images, videos or sounds from a prompt, sampled as it
    samples itself, all its noise exposed."""

    steps: Annotated[int | None, Field(ge=1)] = None
    """Denoising steps; the pipeline's default if not given."""
    guidance_scale: Annotated[float | None, Field(ge=0)] = None
    """The pipeline's `guidance_scale`; its default if not given."""
    frames: Annotated[int | None, Field(ge=1)] = None
    """Frames of a video, `num_frames`; the pipeline's default if not given."""
    seconds: Annotated[float | None, Field(gt=0)] = None
    """Length of a sound; the pipeline's default if not given."""
    options: dict[str, Any] = Field(default={})
    """Other arguments of the pipeline's call, such as eta, true_cfg_scale or
    max_sequence_length."""
    scheduler_class: str | None = None
    """diffusers' scheduler to sample with, such as DPMSolverMultistepScheduler; the pipeline's own
    if not given."""
    scheduler: dict[str, Any] = Field(default={})
    """Options of the scheduler that differ from the model's, such as algorithm_type =
    "sde-dpmsolver++", or stochastic_sampling = true for noise at every step of a flow model."""

    def check(self) -> None:
        """Raise `ConfigError` where the model is missing or an option is in the wrong place."""
        for name in self.options:
            if name in _OUR_OPTIONS:
                raise ConfigError(
                    f"`{name}` is the sampler's own `{_OUR_OPTIONS[name]}`; give it there",
                    at="options",
                )
            if name in _OUR_ARGUMENTS:
                raise ConfigError(
                    f"`{name}` is the sampler's to give, and cannot be among the options",
                    at="options",
                )

        for name in _CLIPPING:
            if self.scheduler.get(name):
                raise ConfigError(
                    f"`{name}` must stay off: where it acts, gradients vanish", at="scheduler"
                )

        self.check_inputs(self.steps, self.options)

    def lengths(self) -> dict[str, Any]:
        """The lengths that are given, by option."""
        lengths = {"frames": self.frames, "seconds": self.seconds}
        return {name: value for name, value in lengths.items() if value is not None}

    def build(self, ctx: BuildContext) -> PipelineSampler:
        """Load the pipeline.

        Raises:
            ConfigError: it cannot be loaded, draws nothing from a prompt, or does not take one of
                the options.
        """
        from ._diffusers.schedule import make_scheduler

        # What libraries say while they are imported is no use to who runs this.
        with quiet():
            from ._pipeline import PipelineSampler

        pipe = self.load(ctx)
        scheduler = make_scheduler(pipe, self.scheduler_class, self.scheduler)
        passed = {
            "steps",
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
            "options",
        }
        return PipelineSampler(
            pipe,
            inputs=self.inputs(),
            lengths=self.lengths(),
            scheduler=scheduler,
            device=ctx.device,
            **self.dtypes(ctx),
            **self.model_dump(include=passed),
        )
