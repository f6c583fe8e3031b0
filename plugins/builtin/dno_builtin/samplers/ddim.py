"""The `ddim` sampler's options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainSerializer, WithJsonSchema

from dno.plugin import BuildContext, ConfigError, SamplerConfig, find_model

from ._folder import INDEX, check_folder, check_index, check_size, check_steps, read_json

if TYPE_CHECKING:
    from ._ddim import DDIMSampler


def _name_or_pipeline(model: object) -> object:
    if not (model if isinstance(model, str) else hasattr(model, "components")):
        raise ValueError("should be a model's name, a folder, a hub id or a diffusers pipeline")
    return model


class DDIM(SamplerConfig):
    """Stable Diffusion 1.x, 2.x or XL, sampled by DDIM (Song et al. 2021) with all its noise exposed."""

    model: Annotated[
        Any,
        AfterValidator(_name_or_pipeline),
        PlainSerializer(lambda model: model if isinstance(model, str) else f"python:{type(model).__name__}"),
        WithJsonSchema({"type": "string"}),
    ] = "emoji"
    """An installed model's name, a folder that a diffusers pipeline was saved to, or a hub id (owner/name); in Python
    also a pipeline that is loaded already, which is left as it is."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; its main branch if not given."""
    steps: Annotated[int, Field(ge=1)] = 50
    """Denoising steps: network evaluations an image."""
    eta: Annotated[float, Field(ge=0, le=1)] = 1.0
    """How much noise each step adds: 0 adds none, so that only the first latent moves; 1 is DDPM's variance, and
    every step's noise moves."""
    guidance_scale: Annotated[float, Field(ge=0)] = 5.0
    """Weight of classifier-free guidance; up to 1 there is none, at half the cost."""
    negative_prompt: str = ""
    """What to guide away from, the same for every prompt."""
    height: Annotated[int | None, Field(ge=8)] = None
    """Height of the images in pixels; the model's own if not given."""
    width: Annotated[int | None, Field(ge=8)] = None
    """Width of the images in pixels; the model's own if not given."""
    memory: Literal["keep", "recompute"] = "keep"
    """What the backward pass finds in memory: `keep` keeps all that the network computed; `recompute` keeps each
    step's input and computes the step once more: the same gradient, memory of one step, 1.5 to 1.8 times the time."""

    def check(self) -> None:
        """Raise `ConfigError` where the model is missing, is no Stable Diffusion pipeline, or does not suit."""
        folder = self._folder()
        if folder is None:
            return
        levels = read_json(folder / "scheduler" / "scheduler_config.json").get("num_train_timesteps", 1000)
        check_steps(self.steps, int(levels))
        blocks = read_json(folder / "vae" / "config.json").get("block_out_channels", [0] * 4)
        for at, size in (("height", self.height), ("width", self.width)):
            check_size(at, size, 2 ** (len(blocks) - 1))

    def build(self, ctx: BuildContext) -> DDIMSampler:
        """Load the model and put DDIM on it.

        Raises:
            ConfigError: the pipeline cannot be loaded, is not one that `ddim` samples, or an option does not suit it.
        """
        import torch

        from ._ddim import DDIMSampler
        from ._load import load_pipeline

        pipe = self.model
        if isinstance(pipe, str):
            vae_dtype = torch.float64 if ctx.dtype == torch.float64 else torch.float32
            pipe = load_pipeline(self._find(), revision=self.revision, dtype=ctx.dtype, vae_dtype=vae_dtype)
        options = self.model_dump(exclude={"model", "revision"})
        return DDIMSampler(pipe, device=ctx.device, dtype=ctx.dtype, **options)

    def _find(self) -> str:
        try:
            return find_model(self.model)
        except ConfigError as error:
            raise error.inside("model") from None

    def _folder(self) -> Path | None:
        """The folder, checked; None for a loaded pipeline, and where a hub id has yet to be downloaded."""
        if not isinstance(self.model, str):
            return None
        found = self._find()
        if Path(found).is_dir():
            check_folder(Path(found))
            return Path(found)
        if found != self.model:
            raise ConfigError(f'the weights of "{self.model}" are missing: there is no folder {found}', at="model")
        from huggingface_hub import constants, try_to_load_from_cache

        cached = try_to_load_from_cache(found, INDEX, revision=self.revision)
        if isinstance(cached, str):
            check_index(read_json(Path(cached)), found)
            return Path(cached).parent
        if constants.HF_HUB_OFFLINE:
            raise ConfigError(
                f'"{found}" is not on this machine, and HF_HUB_OFFLINE forbids downloading it', at="model"
            )
        return None
