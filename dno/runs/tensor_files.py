"""Named tensors and what is said of them in one file, checked whole when it is read.

The metadata entry `dno` is JSON: `format`, what the writer says, `tensors` (shape and dtype of
each) and `checksum`, the SHA-256 of all of these and of every byte of the tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dno.files import check_regular
from dno.wording import said, short

FORMAT: Final = "3"
UNCHECKED: Final = "2"
"""The format before it, which has no checksum; it can still be read."""


class UnknownFormatError(ValueError):
    """The file is of a format that this dno does not know."""


def pack(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """The bytes of a file of tensors; the same for the same tensors and words."""
    # Cloned, because safetensors refuses tensors that share memory, as initial and best do at
    # first; in this format, because `contiguous` leaves the strides of axes of length one.
    apart = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in tensors.items()
    }
    whole: dict[str, Any] = {"format": FORMAT, **about, "tensors": _schema(apart)}
    whole["checksum"] = _checksum(apart, whole)
    # One entry, because safetensors writes several in random order, and equal runs should give
    # equal files.
    return save(apart, {"dno": json.dumps(whole)})


def unpack(path: Path, *, ours: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `pack` was given for this file, on the CPU.

    Args:
        path: the file.
        ours: whether only a run can have written it; else there may be tensors alone.

    Raises:
        UnknownFormatError: another version of dno wrote it.
        OSError: it is missing or cannot be read.
        ValueError: it is not what was written.
    """
    check_regular(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    # Files of others may hold kinds of numbers that torch or safetensors have no name for.
    except (SafetensorError, AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(said(error)) from None
    if "dno" not in metadata and not ours:
        return {}, tensors
    if "dno" not in metadata:
        raise ValueError("its metadata say nothing of dno")
    try:
        about: Any = json.loads(metadata["dno"])
    except RecursionError:
        raise ValueError("its metadata are no JSON of ours") from None
    if not isinstance(about, dict):
        raise ValueError("its metadata are no JSON of ours")

    written = about.get("format")
    if written == UNCHECKED:
        return about, tensors
    if written != FORMAT:
        raise UnknownFormatError(
            f"is of format {short(written, 20)}, and this dno reads {UNCHECKED} and {FORMAT}"
        )
    found = about.pop("checksum", None)
    if about.get("tensors") != _schema(tensors):
        raise ValueError("it does not hold the tensors that were written")
    if found != _checksum(tensors, about):
        raise ValueError("its checksum is another")
    return about, tensors


def _schema(tensors: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    return {
        name: [str(tensors[name].dtype).removeprefix("torch."), list(tensors[name].shape)]
        for name in sorted(tensors)
    }


def _checksum(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        flat = tensors[name].reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()
