"""Where the files of a published model are: in a folder, in the hub's cache, or to be
downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from dno.plugin import ConfigError, RewardConfig, find_model, first_line, hub_is_offline
from dno_builtin.samplers._diffusers.hub import check_hub

PINNED: Final[Mapping[str, str]] = {
    "google/siglip2-so400m-patch14-384": "e8e487298228002f3d8a82e0cd5c8ea9c567f57f",
    "google-bert/bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "1c2b8495b28150b8a4922ee1c8edee224c284c0c",
    "openai/clip-vit-base-patch32": "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
    "THUDM/ImageReward": "5736be03b2652728fb87788c9797b0570450ab72",
    "xswu/HPSv2": "697403c78157020a1ae59d23f111aa58ced35b0a",
    "yuvalkirstain/PickScore_v1": "a4e4367c6dfa7288a00c550414478f865b875800",
}
"""Commit of each hub repository that is read where no revision was asked for; others are read at
their main branch."""

WEIGHTS: Final = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
"""Where transformers keeps a model's weights; the first that is there is read."""


class ModelReward(RewardConfig):
    """Base of rewards with a published model."""

    judges = "image"

    revision: str | None = None
    """Branch, tag or commit of a `model` that is a hub id; if not given, a commit that is fixed for
    the models named in docs/how-to/preference-rewards.md, and the main branch of others."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the model computes in; preprocessing and scores are float32 in any case."""


def locate(model: str, at: str = "model") -> str:
    """The folder or hub id that `model` stands for; `ConfigError` at the option `at` if there is
    none.
    """
    try:
        found = find_model(model)
    except ConfigError as error:
        raise error.inside(at) from None
    if found != model and not Path(found).is_dir():
        raise ConfigError(f'"{found}" holds no model: it is not there', at=at)
    return found


def commit(model: str, revision: str | None = None) -> str | None:
    """The revision to read a hub id at."""
    return revision or PINNED.get(model)


def look(
    model: str, names: Sequence[str], revision: str | None = None, at: str = "model"
) -> Path | None:
    """The first of the named files that is on this machine; None where they have yet to be
    downloaded.

    Args:
        model: a folder or hub id, see `locate`.
        names: in order of preference.
        revision: see `commit`.
        at: the option that errors are about.

    Raises:
        ConfigError: a folder has none of them, or the hub's cache has none and downloads are
            forbidden.
    """
    wanted = " or ".join(names)
    if Path(model).is_dir():
        for name in names:
            if (path := Path(model, name)).is_file():
                return path
        raise ConfigError(
            f'"{model}" holds no {wanted}; name a folder that does, or a hub id', at=at
        )
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        path_or_none = try_to_load_from_cache(model, name, revision=commit(model, revision))
        if isinstance(path_or_none, str):
            return Path(path_or_none)
    if hub_is_offline():
        raise ConfigError(
            f'{wanted} of "{model}" is not on this machine and HF_HUB_OFFLINE forbids downloading '
            "it; unset that once, or name a local folder",
            at=at,
        )
    return None


def fetch(model: str, names: Sequence[str], revision: str | None = None, at: str = "model") -> Path:
    """As `look`, but downloads what is not here; `HF_HOME` and `HF_TOKEN` act as they do for
    `huggingface_hub`.

    Raises:
        ConfigError: none of the files can be had.
    """
    if (path := look(model, names, revision, at)) is not None:
        return path
    try:
        check_hub(model)
    except ConfigError as error:
        raise error.inside(at) from None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        try:
            return Path(hf_hub_download(model, name, revision=commit(model, revision)))
        except LocalEntryNotFoundError:
            reason = "the hub cannot be reached; check the network, or name a local folder"
            raise ConfigError(f'"{model}" could not be downloaded: {reason}', at=at) from None
        except EntryNotFoundError:
            continue
        except (
            Exception
        ) as error:  # No such repository, no permission, a full disk: each has a type of its own.
            raise ConfigError(
                f'"{model}" could not be downloaded: {first_line(error)}', at=at
            ) from error
    raise ConfigError(
        f'"{model}" holds no {" or ".join(names)}; name another model or revision', at=at
    )


def check_model(
    model: str, kinds: Sequence[str], what: str, revision: str | None = None, at: str = "model"
) -> None:
    """Raise `ConfigError` where a folder holds no transformers model of these types, or a hub id is
    sure to fail.

    Args:
        model: a folder or hub id, see `locate`.
        kinds: the values of `model_type` that will do.
        what: the model's kind, as a person says it: CLIP.
        revision: see `commit`.
        at: the option that errors are about.
    """
    folder = Path(model)
    if not folder.is_dir():
        look(model, ["config.json"], revision, at)
        return
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except FileNotFoundError:
        raise ConfigError(f'"{folder}" holds no model: it has no config.json', at=at) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f'"{folder / "config.json"}" cannot be read: {error!r}', at=at) from None
    if kind not in kinds:
        raise ConfigError(f'"{folder}" holds a model of type {kind}; name a {what} model', at=at)
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise ConfigError(f'"{folder}" holds no weights: no {" or ".join(WEIGHTS)}', at=at)


def has_processor(model: str) -> bool:
    """Whether a folder holds what preprocesses a model's images."""
    return any(
        Path(model, name).is_file()
        for name in ("processor_config.json", "preprocessor_config.json")
    )


def has_tokenizer(model: str) -> bool:
    """Whether a folder holds what turns a model's text into tokens."""
    return any(
        Path(model, name).is_file()
        for name in ("tokenizer_config.json", "tokenizer.json", "vocab.txt")
    )
