"""A pipeline without its weights, built from the small files of its folder: shapes alone.

Its networks answer nothing by themselves; the ledger traces them.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import string
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin, SchedulerMixin
from diffusers import pipelines as pipeline_modules
from torch import nn
from transformers import PreTrainedTokenizerBase

from dno.plugin import ConfigError, first_line, is_shape, quiet, traced, without_weights

from .call import check_class, pipeline_class
from .folder import INDEX, check_channels, check_index
from .hub import snapshot
from .load import LIBRARIES, check_parts, is_decoder
from .modules import delicate, wide_dtype
from .parts import family, role_of
from .reading import read_json
from .where import Where

_LENGTHS: Mapping[str, int] = {"T5": 512, "CLIP": 77}
"""Tokens that a stand-in for a tokenizer reads, where its encoder does not say."""


def shaped_pipeline(
    where: Where, *, dtype: torch.dtype, classes: Sequence[str] | None, config: str | None
) -> Any:
    """The pipeline of a folder, all its weights shapes; the folder needs none.

    Args:
        where: its place.
        dtype: of all weights but the decoders', which have `wide_dtype` of it.
        classes: names of the pipeline classes that will do; None: any.
        config: the folder of a pipeline that a single file is built as.

    Raises:
        ConfigError: its configuration is not here, or it cannot be built.
    """
    folder = _folder(where, config)
    index = read_json(folder / INDEX)
    if not index:
        raise ConfigError(
            f"{folder} holds no {INDEX}; a plan needs the configuration files of a pipeline, as "
            "`save_pretrained` writes them, and no weights",
            at="model",
        )
    check_index(index, str(folder), classes)
    check_channels(index, folder)
    cls = pipeline_class(index["_class_name"])
    check_class(cls)
    check_parts(index, folder, installed=where.installed)

    try:
        with quiet():
            return cls(**_parts(index, folder, cls, dtype))
    except ConfigError:
        raise
    # Whatever four libraries say to files that do not suit them.
    except Exception as error:
        raise ConfigError(
            f"{folder} cannot be built from its configuration: {first_line(error)}", at="model"
        ) from error


def _folder(where: Where, config: str | None) -> Path:
    if where.folder is not None:
        return where.folder
    if where.file is not None or (where.hub is not None and where.hub.name is not None):
        if config is not None and Path(config).expanduser().is_dir():
            return Path(config).expanduser()
        raise ConfigError(
            f"{where.file or where.hub} is one file, and a plan reads configurations; name the "
            "folder of a pipeline of its kind by sampler.config",
            at="model",
        )
    assert where.hub is not None
    here = snapshot(where.hub.repo, where.hub.revision)
    if here is None:
        raise ConfigError(
            f"{where.hub.repo} is not on this machine, and a plan downloads nothing; its small "
            f'files are enough: hf download {where.hub.repo} --include "*.json" "*.txt" "*.model"',
            at="model",
        )
    return here


def _parts(index: Mapping[str, Any], folder: Path, cls: Any, dtype: torch.dtype) -> dict[str, Any]:
    """What the pipeline's class is made of."""
    known = inspect.signature(cls.__init__).parameters
    parts: dict[str, Any] = {}
    for name, value in index.items():
        if name not in known:
            continue
        if not isinstance(value, list):
            # An option of the pipeline's own.
            parts[name] = value
        elif name == "safety_checker" or None in value:
            parts[name] = None
        else:
            kind = wide_dtype(dtype) if is_decoder(name) else dtype
            parts[name] = _part(folder / name, value[0], value[1], kind)

    if "requires_safety_checker" in known:
        parts["requires_safety_checker"] = False
    # Encoders decide how long the texts are that their tokenizers read.
    for name, part in parts.items():
        if isinstance(part, _Missing):
            encoder = parts.get(name.replace("tokenizer", "text_encoder"))
            parts[name] = _stand_in(part, encoder)
    return parts


class _Missing:
    """A part whose files are not there."""

    def __init__(self, cls: Any, folder: Path) -> None:
        self.cls = cls
        self.folder = folder


def _part(folder: Path, module: str, name: str, dtype: torch.dtype) -> Any:
    cls = _class(module, name)
    if issubclass(cls, SchedulerMixin):
        return cls.from_pretrained(str(folder))
    if not issubclass(cls, nn.Module) and "Auto" not in name:
        try:
            return cls.from_pretrained(str(folder))
        except Exception:
            return _Missing(cls, folder)

    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} holds no config.json", at="model")
    with without_weights():
        if issubclass(cls, ModelMixin):
            made = cls.from_config(cls.load_config(str(folder)))
        else:
            config = cls.config_class.from_pretrained(str(folder))
            made = cls(config)
        _as_shapes(made, dtype)
    return made.eval()


def _class(module: str, name: str) -> Any:
    """The class of a part, which `check_parts` has let pass."""
    if module in LIBRARIES:
        return getattr(importlib.import_module(module), name)
    if hasattr(pipeline_modules, module):
        return getattr(getattr(pipeline_modules, module), name)
    return getattr(sys.modules[module], name)


def _as_shapes(made: nn.Module, dtype: torch.dtype) -> None:
    """Give a module's weights their type, as `from_pretrained` would."""
    in_float32 = delicate(made, dtype)
    for name, weight in list(made.named_parameters()):
        owner, _, last = name.rpartition(".")
        kind = weight.dtype
        if weight.is_floating_point():
            kind = torch.float32 if id(weight) in in_float32 else dtype
        shape = torch.empty(weight.shape, dtype=kind)
        made.get_submodule(owner)._parameters[last] = nn.Parameter(shape, requires_grad=False)


def answer_by_zeros(pipe: Any) -> None:
    """Have what encodes prompts and pictures in a private pipeline of shapes answer zeros of the
    right form, so that the pipeline goes on."""
    seen: set[int] = set()
    for member in family(pipe):
        for part in vars(member).values():
            role = role_of(part)
            if role is None or id(part) in seen:
                continue
            seen.add(id(part))
            if role == "encoder":
                part.forward = _zeros_of(part.forward)
            elif role == "decoder" and callable(getattr(part, "encode", None)):
                part.encode = _zeros_of(part.encode)


def _zeros_of(function: Callable[..., Any]) -> Callable[..., Any]:
    # Pipelines look at the signature.
    @functools.wraps(function)
    def zeros(*args: Any, **kwargs: Any) -> Any:
        given = [*args, *kwargs.values()]
        if any(isinstance(one, torch.Tensor) and is_shape(one) for one in given):
            return function(*args, **kwargs)
        _, answer = traced(function, args, kwargs)
        return answer

    return zeros


def _stand_in(missing: _Missing, encoder: Any) -> Any:
    """A tokenizer of the class that spells words letter by letter; None for what pipelines can do
    without.

    Raises:
        ConfigError: there is none for this class.
    """
    name = missing.cls.__name__
    if not issubclass(missing.cls, PreTrainedTokenizerBase):
        return None

    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    config = getattr(encoder, "config", None)
    if name.startswith("CLIP"):
        from transformers import CLIPTokenizer

        pieces = ["<|startoftext|>", "<|endoftext|>", *letters]
        length = getattr(config, "max_position_embeddings", _LENGTHS["CLIP"])
        vocabulary = {piece: i for i, piece in enumerate(pieces)}
        return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)
    if name.startswith("T5"):
        from transformers import T5Tokenizer

        words = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase]
        scored = [(word, -float(i)) for i, word in enumerate(words)]
        return T5Tokenizer(vocab=scored, model_max_length=_LENGTHS["T5"])
    raise ConfigError(
        f"{missing.folder} holds no {name}, and there is no stand-in for one; put its small files "
        "there (tokenizer.json, vocab.json, *.model)",
        at="model",
    )
