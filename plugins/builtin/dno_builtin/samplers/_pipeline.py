"""Any pipeline of diffusers that draws from a prompt, sampled as it samples itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dno.plugin import Room

from ._diffusers.apart import ApartNoiseMap
from ._diffusers.call import (
    call_parameters,
    check_class,
    check_negative_prompt,
    check_options,
)
from ._diffusers.clip_skip import check_clip_skip
from ._diffusers.conditioning import arguments, fitted, prepare
from ._diffusers.embeddings import tell_unused
from ._diffusers.ledger import Ledger
from ._diffusers.lengths import length_arguments
from ._diffusers.live import check_live, computes_on, tell_set_aside
from ._diffusers.modules import wide_dtype
from ._diffusers.noise_map import PipelineNoiseMap
from ._diffusers.parking import ParkingLot, at_home
from ._diffusers.parts import networks_of, own_dtype, private_pipeline, remembering
from ._diffusers.prompts import Cuts, check_long_prompts, read_long_prompts, tell_syntax
from ._diffusers.reusable import check_networks
from ._diffusers.shapes import answer_by_zeros
from ._diffusers.spare import Spare
from ._diffusers.speed import Speed
from ._diffusers.watch import SharedDrawError


class PipelineSampler:
    """Pipeline of diffusers sampled by its own call: same scheduler, same guidance, same images.

    Given the same noise its images are those of the pipeline itself, with sample clipping switched
    off. The draws that act on the image are found by measurement when prompts are bound, so nothing
    is known here of any one model or scheduler.

    The pipeline is left as it was: the sampler works on frozen views that share its weights.
    Modules swapped in it later are not seen; weights changed in place are.

    Args:
        pipe: a diffusers pipeline that makes images, videos or sounds of prompts.
        steps, guidance_scale, negative_prompt, height, width, memory, last_steps,
            long_prompts, reuse, options: see `Pipeline`.
        inputs: pictures and what goes with them, as `InputsConfig.inputs` has them.
        lengths: frames, their rate, and seconds of sound, as `Pipeline.lengths` has them.
        scheduler: what samples in place of the pipeline's own `scheduler`; it is left as it is.
        device: where to compute; None: where the pipeline does.
        dtype: what the denoising networks and the text encoders compute in; None: each in its own,
            on the pipeline's own weights.
        vae_dtype: what decoders compute in; None: float32 (float64 where the networks do), since
            pictures have few levels in bfloat16, and some decoders overflow in float16.
        compile, channels_last: see `DiffusersConfig`.

    Raises:
        ConfigError: it is not such a pipeline, or it does not take one of the options.
    """

    def __init__(
        self,
        pipe: Any,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        memory: str = "keep",
        last_steps: int | None = None,
        long_prompts: bool = False,
        reuse: int = 1,
        options: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        lengths: Mapping[str, Any] | None = None,
        scheduler: Any = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        vae_dtype: torch.dtype | None = None,
        compile: bool = False,
        channels_last: bool = False,
    ) -> None:
        check_class(type(pipe))
        check_live(pipe)
        if long_prompts:
            check_long_prompts(pipe)
        if reuse > 1:
            check_networks(networks_of(pipe))
        # Another run may have parts of it elsewhere.
        with at_home(pipe):
            self.device: torch.device = device or computes_on(pipe)
        tell_set_aside(pipe, self.device)
        networks_dtype = dtype or own_dtype(pipe)

        inputs = inputs or {}
        pipe = fitted(pipe, inputs, networks_dtype)
        cls = type(pipe)
        self._prepared = prepare(pipe, inputs, height, width)
        if self._prepared.size is not None:
            height, width = self._prepared.size
            # Some draw at the size of their picture.
            if "height" not in call_parameters(cls):
                height = width = None

        self._dtype = wide_dtype(networks_dtype)
        with at_home(pipe):
            self._pipe = private_pipeline(
                pipe,
                scheduler=scheduler,
                device=self.device,
                dtype=dtype,
                vae_dtype=vae_dtype,
                memory=memory,
                speed=Speed(compile, channels_last),
                reuses=reuse > 1,
            )
            lot = ParkingLot(pipe, self._pipe, self.device)
        self._spare = Spare(memory, Ledger(self._pipe, networks_dtype), lot)
        if self._spare.ledger.weightless:
            answer_by_zeros(self._pipe)
        if long_prompts:
            read_long_prompts(self._pipe)
        self._last_steps = last_steps
        self._reuse = reuse
        self._told: set[str] = set()
        self._negative_prompt = negative_prompt

        free = dict(options or {})
        given = {
            "num_inference_steps": steps,
            "guidance_scale": guidance_scale,
            "height": height,
            "width": width,
        }
        names = arguments(cls)
        for option in ("strength", "image_guidance_scale", "control_scale"):
            if option in inputs:
                given[names[option]] = inputs[option]
        given.update(length_arguments(cls, lengths or {}))
        # An argument that is not given keeps the pipeline's own default.
        given = {name: value for name, value in given.items() if value is not None}
        self._options = {**free, **given, "output_type": "pt", "return_dict": False}

        check_options(cls, {**self._options, **self._prepared.pictures}, free)
        check_clip_skip(pipe, free)
        if negative_prompt:
            check_negative_prompt(cls)

    def make_room(self, room: Room) -> None:
        """Take no more memory than this from now on, where the policy is `auto` or a size."""
        self._spare = self._spare.within(room)

    def bind(
        self, prompts: Sequence[str], seeds: Sequence[int]
    ) -> PipelineNoiseMap | ApartNoiseMap:
        """Encode the prompts once and draw the starting noise.

        A pipeline that draws once for all prompts is called for each of them alone.

        Args:
            prompts: what sample i shows.
            seeds: what its noise comes from, one for each prompt.

        Raises:
            ConfigError: the pipeline refuses its options, or is not a differentiable map from noise
                to images.
            RunError: it draws noise that is not Gaussian.
            ValueError: there are not as many seeds as prompts.
        """
        if len(prompts) != len(seeds):
            raise ValueError(
                f"each sample needs a prompt and a seed, got {len(prompts)} and {len(seeds)}"
            )

        try:
            return self._bind(prompts, seeds)
        except SharedDrawError:
            alone = zip(prompts, seeds, strict=True)
            return ApartNoiseMap([self._bind([prompt], [seed]) for prompt, seed in alone])

    def _bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> PipelineNoiseMap:
        pictures = self._prepared.of(type(self._pipe), len(prompts))
        options = {**self._options, **pictures, "prompt": list(prompts)}
        # To diffusers an empty negative prompt and none at all differ for Stable Diffusion XL; none
        # is its default.
        if self._negative_prompt:
            options["negative_prompt"] = [self._negative_prompt] * len(prompts)

        said = [*prompts, self._negative_prompt]
        tell_syntax(said, self._told)
        tell_unused(self._pipe, said)

        pipe = remembering(self._pipe, self._dtype)
        cuts = Cuts(pipe)
        with self._spare.lot.at_home():
            bound = PipelineNoiseMap(
                pipe,
                options,
                seeds,
                self.device,
                self._last_steps,
                spare=self._spare,
                reuse=self._reuse,
            )
        cuts.tell(self._told)
        return bound
