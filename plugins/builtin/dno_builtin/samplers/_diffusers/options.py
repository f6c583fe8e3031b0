"""Options that every sampler of diffusers pipelines has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, PlainSerializer, WithJsonSchema

from dno.plugin import (
    BuildContext,
    ConfigError,
    Origin,
    SamplerConfig,
    find_model,
    hub_is_offline,
)

from .folder import INDEX, check_folder, check_index, read_json
from .lora import check as check_loras
from .lora import merge as merge_loras
from .memory import Memory


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


def _located_lora(lora: Any, origin: Origin) -> Any:
    if not isinstance(lora, str):
        return lora
    whole = origin.name(lora)
    place, equals, strength = lora.rpartition("=")
    # A file whose name has a `=` is a file all the same.
    if whole != lora or not equals:
        return whole
    return f"{origin.name(place)}={strength}"


class DiffusersConfig(SamplerConfig):
    """Base of samplers of diffusers pipelines."""

    classes: ClassVar[Sequence[str] | None] = None
    """Names of the pipeline classes that the sampler takes; None: any."""

    model: Model = "emoji"
    """An installed model's name, a folder that a diffusers pipeline was saved to, or a hub id
    (owner/name); in Python also a pipeline that is loaded already, which is left as it is."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; its main branch if not given."""
    loras: tuple[str, ...] = ()
    """LoRA weights to merge into the model: .safetensors files, folders with one, or hub ids, each
    with `=STRENGTH` after it where that is not 1. Needs the extra `dno[lora]`."""
    negative_prompt: str = ""
    """What to guide away from, the same for every prompt."""
    height: Annotated[int | None, Field(ge=8)] = None
    """Height of the images in pixels; the model's own if not given."""
    width: Annotated[int | None, Field(ge=8)] = None
    """Width of the images in pixels; the model's own if not given."""
    memory: Memory = "keep"
    """What the backward pass finds in memory: `keep` keeps all that network and decoder computed;
    `recompute` keeps each step's input and computes the step once more, and the decoder block by
    block: the same gradient, memory of one step, 1.5 to 1.8 times the time."""
    last_steps: Annotated[int | None, Field(ge=1)] = None
    """Only the noise drawn for that many last steps moves; what comes before is computed once and
    kept. All steps if not given."""

    @classmethod
    def located(cls, options: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `PluginConfig.located`; LoRA weights may be files too."""
        found = super().located(options, origin)
        loras = found.get("loras")
        if isinstance(loras, (list, tuple)):
            found["loras"] = type(loras)([_located_lora(lora, origin) for lora in loras])
        return found

    def folder(self) -> Path | None:
        """The model's folder, checked.

        None for a loaded pipeline, and where a hub id has yet to be downloaded.

        Raises:
            ConfigError: the model is missing, or is not one that the sampler takes.
        """
        if self.loras and not isinstance(self.model, str):
            raise ConfigError(
                "the pipeline is loaded already; load them into the pipeline itself", at="loras"
            )
        check_loras(self.loras)
        if not isinstance(self.model, str):
            return None

        found = self._find()
        if Path(found).is_dir():
            check_folder(Path(found), self.classes)
            return Path(found)

        # What an installed model names is always a folder.
        if found != self.model:
            raise ConfigError(
                f'the weights of "{self.model}" are missing: there is no folder {found}', at="model"
            )
        return self._cached(found)

    def _cached(self, hub_id: str) -> Path | None:
        """The folder that a hub id was downloaded to; None where that is yet to be done."""
        from huggingface_hub import try_to_load_from_cache

        index = try_to_load_from_cache(hub_id, INDEX, revision=self.revision)
        if isinstance(index, str):
            check_index(read_json(Path(index)), hub_id, self.classes)
            return Path(index).parent

        if hub_is_offline():
            raise ConfigError(
                f'"{hub_id}" is not on this machine, and HF_HUB_OFFLINE forbids downloading it',
                at="model",
            )
        return None

    def load(self, ctx: BuildContext) -> Any:
        """The pipeline, loaded unless it was given.

        Raises:
            ConfigError: it cannot be loaded, or is not one that the sampler takes.
        """
        if not isinstance(self.model, str):
            return self.model

        from .load import load_pipeline

        pipe = load_pipeline(
            self._find(),
            revision=self.revision,
            dtype=ctx.dtype,
            classes=self.classes,
        )
        merge_loras(pipe, self.loras)
        return pipe

    def _find(self) -> str:
        """A folder or hub id.

        Raises:
            ConfigError: there is no such model.
        """
        try:
            return find_model(self.model)
        except ConfigError as error:
            raise error.inside("model") from None
