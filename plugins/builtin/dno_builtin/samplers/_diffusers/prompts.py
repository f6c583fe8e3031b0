"""What text encoders read of prompts: what they cut off is told, or read piece by piece."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerBase

from dno.plugin import ConfigError

from .parts import family

_SYNTAX: Final = re.compile(r"\([^()]+:\s*\d+(?:\.\d+)?\s*\)|<(?:lora|lyco|hypernet):[^<>]+>")
"""What other programs read as weights of words, or as files to load."""

_LONGEST: Final = 120
"""Characters of a prompt, or of what was cut off it, that a message has."""

_log = logging.getLogger("dno")

Answer = Callable[[Any, Callable[..., Any], Any, dict[str, Any]], Any]
"""Answers a call of a tokenizer: from it, its own call, the text and the options."""


def tell_syntax(prompts: Sequence[str], told: set[str]) -> None:
    """Warn of what other programs would not read as text.

    Args:
        prompts: each is told of once.
        told: what was told of already; what is told now is added.
    """
    for prompt in dict.fromkeys(prompts):
        match = _SYNTAX.search(prompt)
        if match is None or f"syntax: {prompt}" in told:
            continue
        told.add(f"syntax: {prompt}")
        if match[0].startswith("<"):
            _log.warning(
                'the prompt "%s" has %s, which is read as plain text; name LoRA weights by --lora',
                _short(prompt),
                match[0],
            )
        else:
            _log.warning(
                'the prompt "%s" has %s, which is read as plain text: words have no weights here',
                _short(prompt),
                match[0],
            )


def _short(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST].rstrip()}... ({len(text)} characters)"


def _answering(tokenizer: Any, answer: Answer) -> Any:
    """A tokenizer like this whose calls somebody else answers."""
    kind: Any = type(tokenizer)

    def call(self: Any, text: Any = None, **options: Any) -> Any:
        return answer(self, functools.partial(kind.__call__, self), text, options)

    # Pipelines may ask for its class.
    own = copy.copy(tokenizer)
    own.__class__ = type(kind.__name__, (kind,), {"__call__": call})
    return own


def _replace_tokenizers(pipe: Any, answer: Answer) -> None:
    for member in family(pipe):
        for name, part in vars(member).items():
            if isinstance(part, PreTrainedTokenizerBase):
                vars(member)[name] = _answering(part, answer)


# What was cut off.


class Cuts:
    """Listens to a pipeline's tokenizers for what they cut off prompts.

    Args:
        pipe: a pipeline of one's own, whose tokenizers are replaced.
    """

    def __init__(self, pipe: Any) -> None:
        self._found: dict[str, list[tuple[int, str]]] = {}
        self._listening = True
        _replace_tokenizers(pipe, self._answer)

    def tell(self, told: set[str]) -> None:
        """Warn of each prompt that was cut, once, and listen no longer.

        Args:
            told: what was told of already; what is told now is added.
        """
        self._listening = False
        for text, heard in self._found.items():
            limit, cut = max(heard, key=lambda one: len(one[1]))
            if not cut or f"cut: {text}" in told:
                continue
            told.add(f"cut: {text}")
            also = ""
            if any(not other for _, other in heard):
                also = " (another of its text encoders reads all of it)"
            _log.warning(
                'the prompt "%s" is longer than the %d tokens that the model reads%s; cut off: '
                '"%s"; --long-prompts reads it whole where the text encoder is CLIP',
                _short(text),
                limit,
                also,
                _short(cut),
            )

    def _answer(
        self, tokenizer: Any, own_call: Callable[..., Any], text: Any, options: dict[str, Any]
    ) -> Any:
        result = own_call(text, **options)
        if self._listening and options.get("truncation"):
            # A tokenizer of another kind is not the end of a run.
            with contextlib.suppress(Exception):
                self._listen(tokenizer, own_call, text, options, result)
        return result

    def _listen(
        self,
        tokenizer: Any,
        own_call: Callable[..., Any],
        text: Any,
        options: dict[str, Any],
        result: Any,
    ) -> None:
        texts = [text] if isinstance(text, str) else list(text)
        limit = options.get("max_length") or tokenizer.model_max_length
        special = options.get("add_special_tokens", True)

        whole = own_call(texts, add_special_tokens=special)["input_ids"]
        kept = _rows(result["input_ids"])
        for one, every, read in zip(texts, whole, kept, strict=True):
            cut = ""
            if len(every) > limit:
                same = _common_start(every, read)
                cut = tokenizer.decode(every[same:], skip_special_tokens=True).strip()
            self._found.setdefault(one, []).append((int(limit), cut))


def _rows(ids: Any) -> list[list[int]]:
    """Token ids by text, from a tensor or from lists."""
    rows = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    if rows and not isinstance(rows[0], list):
        rows = [rows]
    return rows


def _common_start(one: Sequence[int], other: Sequence[int]) -> int:
    """How many entries two sequences have in common, from the first."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))


# Prompts read piece by piece.


def check_long_prompts(pipe: Any) -> None:
    """Raise `ConfigError` unless CLIP's text encoders alone encode a pipeline's prompts."""
    encoders = [part for name, part in vars(pipe).items() if name.startswith("text_encoder")]
    encoders = [part for part in encoders if part is not None]
    is_clip = all(
        isinstance(part, (CLIPTextModel, CLIPTextModelWithProjection)) for part in encoders
    )
    if not encoders or not is_clip or not hasattr(pipe, "encode_prompt"):
        kinds = ", ".join(type(part).__name__ for part in encoders) or "none"
        raise ConfigError(
            "needs a pipeline whose text encoders are CLIP's alone, as Stable Diffusion 1.x, 2.x "
            f"and XL have; those of a {type(pipe).__name__} are {kinds}",
            at="long_prompts",
        )


def read_long_prompts(pipe: Any) -> None:
    """Let a pipeline encode prompts of any length, in pieces that CLIP takes.

    Each piece has a start and an end of its own, and what the pieces are encoded as stand one after
    the other; shorter prompts of a batch are filled up with empty pieces. Of a whole prompt, such
    as Stable Diffusion XL's pooled text, the first piece is taken. A prompt that fits one piece is
    encoded as the pipeline encodes it.

    Args:
        pipe: a pipeline of one's own, whose tokenizers and `encode_prompt` are replaced.
    """
    pieces = _Pieces()
    _replace_tokenizers(pipe, pieces.answer)
    whole = pipe.encode_prompt

    # Pipelines look at the signature.
    @functools.wraps(whole)
    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        pieces.number, pieces.count = 0, 1
        encoded = []
        while pieces.number < pieces.count:
            encoded.append(whole(*args, **kwargs))
            pieces.number += 1
        return [_joined(parts) for parts in zip(*encoded, strict=True)]

    pipe.encode_prompt = encode_prompt


def _joined(parts: Sequence[Any]) -> Any:
    """Encoded pieces, one after the other; the first where each stands for a whole prompt."""
    first = parts[0]
    if isinstance(first, Tensor) and first.ndim == 3:
        return torch.cat(list(parts), dim=1)
    return first


class _Pieces:
    """Answers for tokenizers with one piece of each text."""

    number = 0
    """Which piece, from 0."""
    count = 1
    """Pieces of the longest text so far."""

    def answer(
        self, tokenizer: Any, own_call: Callable[..., Any], text: Any, options: dict[str, Any]
    ) -> Any:
        result = own_call(text, **options)
        # What pipelines ask for besides, to tell what was cut off, goes nowhere.
        if not options.get("truncation") or options.get("padding") != "max_length":
            return result

        texts = [text] if isinstance(text, str) else list(text)
        room = options["max_length"] - 2
        words = own_call(texts, add_special_tokens=False)["input_ids"]
        longest = max(len(ids) for ids in words)
        self.count = max(self.count, math.ceil(longest / room))

        ids = result["input_ids"]
        for row, every in enumerate(words):
            piece = every[self.number * room : (self.number + 1) * room]
            filled = [tokenizer.bos_token_id, *piece, tokenizer.eos_token_id]
            filled += [tokenizer.pad_token_id] * (room + 2 - len(filled))
            ids[row] = torch.tensor(filled, dtype=ids.dtype)
            if "attention_mask" in result:
                result["attention_mask"][row] = (torch.arange(room + 2) < len(piece) + 2).to(
                    result["attention_mask"].dtype
                )
        return result
