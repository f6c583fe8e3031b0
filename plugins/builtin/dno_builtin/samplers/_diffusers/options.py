"""Options that every sampler of diffusers pipelines has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from dno.plugin import BuildContext, ConfigError, Origin, SamplerConfig
from dno_builtin._sniff import read_header

from .embeddings import check as check_embeddings
from .folder import INDEX, check_folder
from .hub import HubFile, check_hub, snapshot
from .lora import check as check_loras
from .memory import Memory
from .vae import check_vae
from .where import Where, find


def _name_or_pipeline(model: object) -> object:
    is_name = isinstance(model, str) and model != ""
    if not is_name and not hasattr(model, "components"):
        raise ValueError("should be a model's name, a folder, a hub id or a diffusers pipeline")
    return model


def _written(model: object) -> str:
    if isinstance(model, str):
        return model
    return f"python:{type(model).__name__}"


Model = Annotated[
    Any,
    AfterValidator(_name_or_pipeline),
    PlainSerializer(_written),
    WithJsonSchema({"type": "string"}),
]
"""A model's name, folder or hub id, or a loaded pipeline, which no saved run can name again."""


def _located_place(given: Any, origin: Origin) -> Any:
    """A file's path from the root, with the strength or the word behind it that it came with."""
    if not isinstance(given, str):
        return given
    whole = origin.name(given)
    # A file whose name has a `=` is a file all the same.
    if whole != given:
        return whole
    for mark in "=:":
        place, found, rest = given.rpartition(mark)
        if found and origin.name(place) != place:
            return f"{origin.name(place)}{mark}{rest}"
    return given


def _as_several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Places = Annotated[tuple[str, ...], BeforeValidator(_as_several)]
"""Files, folders or hub ids; one may be given by itself."""


class DiffusersConfig(SamplerConfig):
    """Base of samplers of diffusers pipelines."""

    weightless = True

    classes: ClassVar[Sequence[str] | None] = None
    """Names of the pipeline classes that the sampler takes; None: any."""

    model: Model = "emoji"
    """An installed model's name, a folder that a diffusers pipeline was saved to (one of the hub's
    cache too), a checkpoint in one .safetensors file, a hub id (owner/name) or a file's address
    there; in Python also a pipeline that is loaded already, which is left as it is."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; its main branch if not given."""
    variant: str | None = None
    """Which of several sets of weights to load, such as fp16; if not given, those without a name,
    or the only ones that there are."""
    config: str | None = None
    """Folder or hub id of a pipeline that is built as a checkpoint in one file is; if not given,
    the one that diffusers knows its kind by, from the hub."""
    vae: str | None = None
    """Another decoder: a folder, a .safetensors file or a hub id; the model's own if not given."""
    loras: Places = ()
    """LoRA weights to merge into the model: .safetensors files, folders with one, or hub ids, each
    with `=STRENGTH` or `:STRENGTH` after it where that is not 1. Needs the extra `dno[lora]`."""
    embeddings: Places = ()
    """Textual inversions: .safetensors files, folders with one, or hub ids, each with `=WORD` after
    it where prompts are to call it otherwise than its file does."""
    long_prompts: bool = False
    """Whether prompts longer than a CLIP text encoder takes are encoded piece by piece, and none of
    them is cut off. For Stable Diffusion 1.x, 2.x and XL."""
    negative_prompt: str = ""
    """What to guide away from, the same for every prompt."""
    height: Annotated[int | None, Field(ge=8)] = None
    """Height of the images in pixels; the model's own if not given."""
    width: Annotated[int | None, Field(ge=8)] = None
    """Width of the images in pixels; the model's own if not given."""
    vae_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What the decoder computes in; if not given, float32 (float64 where `dtype` is that). bfloat16
    takes half of its memory, and gives pictures levels of 1/256; some overflow in float16."""
    memory: Memory = "auto"
    """What the backward pass finds in memory; the gradient is the same. `keep` keeps all that
    network and decoder computed; `recompute` keeps each step's input and computes the step once
    more, and the decoder block by block: memory of one step, 1.5 to 1.8 times the time. `auto`
    keeps as many of the last steps as the device has memory for and computes the others once more,
    block by block where it must, and has text encoders on the CPU meanwhile where that helps; a
    size such as 20GiB does so within that much in all."""
    compile: bool = False
    """Whether the blocks that a network repeats, as its class names them, are compiled by
    torch.compile: faster steps where such blocks are what takes time, after a minute or so at the
    first ones. Bits change, to rounding. Not for quantised weights."""
    channels_last: bool = False
    """Whether convolutions of network and decoder have the channel as the innermost dimension,
    which a GPU's tensor cores take as it is; networks on a CPU have it in any case. Bits may
    change, to rounding."""
    reuse: Annotated[int, Field(ge=1)] = 1
    """Steps from one in which all blocks of a UNet run to the next; 1: all run at each. Between,
    the outermost blocks alone run, on what the deep ones answered last (DeepCache, Ma et al. 2024).
    An approximation: another sampler, whose gradient is exact. On the embedded model at 50 steps 2
    takes 0.73 of an iteration's time, and the cosine of its gradient to the full one's is 0.994 in
    the median, and below 0.9 for some prompts. A coarser grid is computed in full."""
    last_steps: Annotated[int | None, Field(ge=1)] = None
    """Only the noise drawn for that many last steps moves; what comes before is computed once and
    kept. All steps if not given."""

    @classmethod
    def located(cls, options: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `PluginConfig.located`; what is put over the model may be in files too."""
        found = super().located(options, origin)
        for name in ("vae", "config", "controlnet"):
            if isinstance(found.get(name), str):
                found[name] = origin.name(found[name])
        for name in ("loras", "embeddings"):
            places = found.get(name)
            if isinstance(places, str):
                found[name] = _located_place(places, origin)
            elif isinstance(places, (list, tuple)):
                found[name] = type(places)([_located_place(place, origin) for place in places])
        return found

    def folder(self) -> Path | None:
        """The model's folder, checked.

        None for a loaded pipeline, and for what has yet to be downloaded or comes in one file.

        Raises:
            ConfigError: the model is missing, or is not one that the sampler takes; so are LoRA
                weights, embeddings, or a decoder.
        """
        self._check_live()
        if self.vae is not None:
            check_vae(self.vae)
        check_embeddings(self.embeddings)

        folder = self._folder()
        check_loras(self.loras, folder)
        return folder

    def _check_live(self) -> None:
        """Raise `ConfigError` where something is to be loaded into a pipeline that is loaded."""
        if isinstance(self.model, str):
            return
        for option in ("loras", "embeddings", "vae", "variant", "config"):
            if getattr(self, option):
                raise ConfigError(
                    "the pipeline is loaded already; load it into the pipeline itself", at=option
                )

    def _folder(self) -> Path | None:
        if not isinstance(self.model, str):
            return None

        where = self._find()
        if where.folder is not None:
            check_folder(where.folder, self.classes, self.variant)
            return where.folder
        if where.file is not None:
            self._check_file(where.file)
            return None
        assert where.hub is not None
        return self._cached(where.hub)

    def _check_file(self, file: Path) -> None:
        """Raise `ConfigError` unless a file holds a checkpoint, and its `config` is here."""
        from .checkpoint import check_checkpoint

        check_checkpoint(read_header(file), file)
        if self.variant is not None:
            raise ConfigError("a single file has no variants; leave it out", at="variant")

    def _cached(self, file: HubFile) -> Path | None:
        """The folder that a hub id was downloaded to; None where that is yet to be done."""
        here = snapshot(file.repo, file.revision)
        if file.name is None and here is not None and (here / INDEX).is_file():
            try:
                check_folder(here, self.classes, self.variant)
            except ConfigError as error:
                self._check_hub(file, f"{error.problem}; ")
                return None
            return here

        self._check_hub(file)
        return None

    def _check_hub(self, file: HubFile, lead: str = "") -> None:
        try:
            check_hub(str(file))
        except ConfigError as error:
            raise ConfigError(f"{lead}{error.problem}", at="model") from None

    def load(self, ctx: BuildContext) -> Any:
        """The pipeline, loaded unless it was given.

        Raises:
            ConfigError: it cannot be loaded, or is not one that the sampler takes.
        """
        if self.compile and not ctx.weightless:
            from .speed import check_compiler

            check_compiler(ctx.device)
        if not isinstance(self.model, str):
            if ctx.weightless:
                raise ConfigError(
                    "the pipeline is loaded already; a plan needs its name, folder or hub id",
                    at="model",
                )
            return self.model

        if ctx.weightless:
            from .shapes import shaped_pipeline

            return shaped_pipeline(
                self._find(), dtype=ctx.dtype, classes=self.classes, config=self.config
            )

        from .embeddings import add
        from .load import Choice, load_pipeline
        from .lora_merge import merge

        pipe = load_pipeline(
            self.model,
            dtype=ctx.dtype,
            classes=self.classes,
            choice=Choice(self.revision, self.variant, self.config, self.vae),
        )
        merge(pipe, self.loras)
        add(pipe, self.embeddings)
        return pipe

    def dtypes(self, ctx: BuildContext) -> dict[str, Any]:
        """What networks and decoders are to compute in, as `PipelineSampler` has it.

        Where no dtype was chosen, a loaded pipeline computes in its own.
        """
        import torch

        is_loaded = not isinstance(self.model, str)
        return {
            "dtype": ctx.dtype if ctx.dtype_chosen or not is_loaded else None,
            "vae_dtype": getattr(torch, self.vae_dtype) if self.vae_dtype else None,
        }

    def _find(self) -> Where:
        """Where the model is.

        Raises:
            ConfigError: there is no such model.
        """
        try:
            return find(self.model, self.revision)
        except ConfigError as error:
            raise error.inside("model") from None


LOADING = (
    "model",
    "revision",
    "variant",
    "config",
    "vae",
    "loras",
    "embeddings",
)
"""Options that are used up when the pipeline is loaded."""
