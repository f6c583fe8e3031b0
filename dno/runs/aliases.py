"""What users of diffusers call things, in Python, as this project's own options.

An option is known by one name; these are other names for it, and other values, that a person who
comes from `pipe(...)` types without looking them up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from dno.errors import ConfigError
from dno.runs.shorthands import Options

OTHER_NAMES: Final = {
    "num_inference_steps": "steps",
    "num_images_per_prompt": "batch",
    "generator": "seed",
    "latents": "start",
    "mask_image": "mask",
    "torch_dtype": "dtype",
}
"""Names that diffusers' pipelines have for options."""

ELSEWHERE: Final = {
    "rewards": "is called reward, which may be a list, or a table of weights",
    "callback_on_step_end": "is of a pipeline's steps; callback is called after each iteration",
    "output_type": "is not needed: result.images are pictures, result.best.samples is the tensor",
    "pipe": "is called model; or give the pipeline before the prompt",
    "pipeline": "is called model; or give the pipeline before the prompt",
    "prompts": "is the first argument, by place; it may be a list",
    "sigmas": "is the pipeline's own schedule; steps says how many there are",
    "timesteps": "is the pipeline's own schedule; steps says how many there are",
    "prompt_embeds": "cannot be given; give the prompt as text",
}
"""Names that people type whose meaning no option has, and what to write instead."""


class PythonOptions(Options, total=False):
    """The options, and what diffusers calls some of them."""

    num_inference_steps: int | None
    num_images_per_prompt: int | None
    generator: Any
    """A `torch.Generator`, of which its seed counts: noise is drawn from it as diffusers would draw
    it from one on the CPU."""
    latents: Any
    """Noise of the first latent, `B x C x h x w`; the draws after it stay the seeds' own."""
    mask_image: Any
    torch_dtype: Any


def own_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options under their own names, with values that a configuration can hold.

    Raises:
        ConfigError: an option was given under two names, or a value tells nothing.
    """
    options: dict[str, Any] = {}
    for name, value in given.items():
        if name in ELSEWHERE:
            raise ConfigError(ELSEWHERE[name], source=name)
        own = OTHER_NAMES.get(name, name)
        if value is None:
            options.setdefault(own, None)
            continue
        if options.get(own) is not None:
            other = next(alias for alias, known in OTHER_NAMES.items() if known == own)
            raise ConfigError(f"is another name of {own}; give one of them", source=other)
        options[own] = _READ.get(name, _as_it_is)(value)
    return options


def _as_it_is(value: Any) -> Any:
    return value


def _seed_of(generator: Any) -> Any:
    """The seed that a generator was made from."""
    if not hasattr(generator, "initial_seed"):
        raise ConfigError(
            f"needs one torch.Generator, got a {type(generator).__name__}; for several samples "
            "give a first seed and how many: seed=3, batch=4",
            source="generator",
        )
    return generator.initial_seed()


def _name_of_dtype(dtype: Any) -> str:
    """`float32`, given by name or as torch's own object."""
    return str(dtype).removeprefix("torch.")


_READ: Final[Mapping[str, Callable[[Any], Any]]] = {
    "generator": _seed_of,
    "dtype": _name_of_dtype,
    "torch_dtype": _name_of_dtype,
    "device": str,
}
