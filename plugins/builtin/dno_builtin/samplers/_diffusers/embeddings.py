"""Words that a text encoder did not learn: textual inversions (Gal et al. 2022), as files."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dno.plugin import ConfigError, first_line, hearing
from dno_builtin._sniff import check_suffix, read_header

from .hub import HubFile, check_here, fetch, hub_file, list_files

if TYPE_CHECKING:
    from torch import Tensor

WORDS: Final = "dno_embedding_words"
"""Where a pipeline keeps the words that were added to it."""

_TOWERS: Final[Mapping[str, tuple[str, ...]]] = {
    "emb_params": ("",),
    "clip_l": ("",),
    "clip_g": ("_2",),
}
"""What files call an embedding, and the ends of the encoders' names that it is for."""

_log = logging.getLogger("dno")


@dataclass(frozen=True)
class Embedding:
    """One entry of `embeddings`."""

    place: str
    word: str | None = None
    """What prompts call it; None: what the file calls it, or the file's own name."""


def parse(embedding: str) -> Embedding:
    """An entry of `embeddings`: `PATH` or `PATH=WORD`. What exists is always a path.

    Raises:
        ConfigError: it names nothing, or its word has blanks in it.
    """
    path = Path(embedding).expanduser()
    place, found, word = embedding.rpartition("=")
    if path.exists() or not found:
        place, word = embedding, ""
    if not place.strip() or (found and place != embedding and not word):
        raise ConfigError(f"needs the form PATH or PATH=WORD, got {embedding!r}")
    if re.search(r"\s", word):
        raise ConfigError(f"{word!r} cannot be the word of an embedding: it has blanks in it")
    return Embedding(place, word or None)


def check(embeddings: Sequence[str]) -> None:
    """Raise `ConfigError` where an embedding is missing, or is a file of another kind."""
    for i, entry in enumerate(embeddings):
        at = f"embeddings.{i}"
        try:
            found = find(parse(entry).place)
            check_here(found)
            if isinstance(found, Path):
                _check_shapes(found)
        except ConfigError as error:
            raise ConfigError(error.problem, at=at) from None


def find(place: str) -> Path | HubFile:
    """The file that an `Embedding.place` names, or where on the hub it is."""
    path = Path(place).expanduser()
    if path.is_file():
        check_suffix(path, "")
        return path
    if path.is_dir():
        return path / _only_one(place, [file.name for file in path.glob("*.safetensors")])
    on_hub = hub_file(place)
    if on_hub is None:
        check_suffix(path, "")
        raise ConfigError(f"there is no file {path}")
    return on_hub


def _only_one(place: str, names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    if not names:
        raise ConfigError(f"{place} holds no embedding: no .safetensors file")
    raise ConfigError(f"{place} holds {len(names)} .safetensors files; name one")


def _check_shapes(file: Path) -> None:
    header = read_header(file, "")
    for name, shape in header.shapes.items():
        if len(shape) not in (1, 2) or (len(header.shapes) > 1 and name not in _TOWERS):
            raise ConfigError(
                f"{file} holds no embedding: it has {len(header.shapes)} tensors, such as "
                f"{name!r} of shape {shape}"
            )


def add(pipe: Any, embeddings: Sequence[str]) -> None:
    """Teach a pipeline's text encoders words, each by its embedding.

    Raises:
        ConfigError: the pipeline takes none, or one does not fit it.
    """
    if embeddings and not hasattr(pipe, "load_textual_inversion"):
        raise ConfigError(f"a {type(pipe).__name__} takes no embeddings", at="embeddings")

    words = []
    for i, entry in enumerate(embeddings):
        at = f"embeddings.{i}"
        try:
            words.append(_add_one(pipe, parse(entry)))
        except ConfigError as error:
            raise ConfigError(error.problem, at=at) from None
        # Loading reaches three libraries, each with errors of its own.
        except Exception as error:
            raise ConfigError(
                f"{entry} does not fit a {type(pipe).__name__}: {first_line(error)}", at=at
            ) from error
    if words:
        vars(pipe)[WORDS] = tuple(words)


def _add_one(pipe: Any, embedding: Embedding) -> str:
    from safetensors.torch import load_file

    found = find(embedding.place)
    if isinstance(found, HubFile):
        if found.name is None:
            names = [name for name in list_files(found) if name.endswith(".safetensors")]
            found = HubFile(found.repo, _only_one(embedding.place, names), found.revision)
        found = fetch(found)
    _check_shapes(found)

    tensors = load_file(found)
    word = embedding.word or _own_word(found, tensors)
    with hearing() as heard:
        for name, tensor in tensors.items():
            for end in _TOWERS.get(name, ("",)):
                _teach(pipe, end, word, tensor, found)
    for line in heard:
        _log.warning("%s: %s", embedding.place, line)

    encoders = [name for name in ("text_encoder", "text_encoder_2") if _has(pipe, name)]
    if len(encoders) > len(tensors):
        raise ConfigError(
            f"{found} has an embedding for one text encoder, and the model has two; "
            "it is for another family"
        )
    return word


def _own_word(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """What a file calls its embedding: diffusers writes the word, others name the file so."""
    name = next(iter(tensors))
    if name in _TOWERS or name == "*":
        return file.stem
    return name


def _has(pipe: Any, name: str) -> bool:
    return getattr(pipe, name, None) is not None


def _teach(pipe: Any, end: str, word: str, embedding: Tensor, file: Path) -> None:
    """Teach one text encoder a word, and see that it learned it."""
    encoder = getattr(pipe, f"text_encoder{end}", None)
    tokenizer = getattr(pipe, f"tokenizer{end}", None)
    if encoder is None or tokenizer is None:
        raise ConfigError(f"{file} is for a text encoder that a {type(pipe).__name__} lacks")

    width = encoder.get_input_embeddings().weight.shape[1]
    rows = embedding.reshape(-1, embedding.shape[-1])
    if rows.shape[1] != width:
        raise ConfigError(
            f"{file} is for another family of models: its embedding has {rows.shape[1]} numbers, "
            f"the text encoder's words have {width}"
        )
    if word in tokenizer.get_vocab():
        raise ConfigError(
            f"the model knows the word {word!r} already; give another, as in {file}=my-{word}"
        )

    pipe.load_textual_inversion(
        {word: embedding}, token=word, text_encoder=encoder, tokenizer=tokenizer
    )
    first = encoder.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(word)]
    if not first.equal(rows[0].to(first)):
        raise ConfigError(f"the model did not take the embedding of {file}")


def tell_unused(pipe: Any, prompts: Sequence[str]) -> None:
    """Warn of words that were added and that no prompt has."""
    for word in vars(pipe).get(WORDS, ()):
        if not any(word in prompt for prompt in prompts):
            _log.warning("the embedding %r changes nothing: no prompt has that word", word)
