"""What a file of weights is, told from its first bytes: no torch, and nothing is unpickled.

A safetensors file starts with the length of its header (8 bytes, little-endian), then has the
header, JSON that tells each tensor's type, shape and place, then the tensors.
https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dno.plugin import ConfigError

PICKLES: Final = (".ckpt", ".pt", ".pth", ".bin")
"""Names' ends of pickled weights, which are never loaded as a model."""

CONVERSION: Final = (
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "w = torch.load(open(sys.argv[1], 'rb'), map_location='cpu', weights_only=True); "
    "w = w.get('string_to_param', w.get('state_dict', w)); "
    "save_file({k: v.detach().contiguous().clone() for k, v in w.items() if torch.is_tensor(v)}, "
    'sys.argv[2])"'
)
"""What makes safetensors of a pickle without running its code; two paths come after it."""

_LONGEST_HEADER: Final = 100_000_000
"""Bytes; safetensors itself reads no longer ones."""


@dataclass(frozen=True)
class Header:
    """What the header of a safetensors file tells."""

    shapes: Mapping[str, tuple[int, ...]]
    """Each tensor's shape, by name."""
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_header(path: Path, at: str = "model") -> Header:
    """The header of a safetensors file that is whole.

    Args:
        path: the file.
        at: the option that errors are about.

    Raises:
        ConfigError: it is empty, cut short, of another kind, or holds no tensors.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(1024)
            _check_kind(path, start, size, at)

            (length,) = struct.unpack("<Q", start[:8])
            if length > _LONGEST_HEADER:
                raise ConfigError(f"{path} is not a safetensors file", at=at)
            if 8 + length > size:
                raise ConfigError(_cut_short(path, size, 8 + length), at=at)

            file.seek(8)
            header = json.loads(file.read(length))
    # It is a ValueError itself.
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", at=at) from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path} is not a safetensors file", at=at) from None
    return _understood(path, header, size - 8 - length, at)


def _check_kind(path: Path, start: bytes, size: int, at: str) -> None:
    """Raise `ConfigError` where a file's first bytes are not those of a safetensors file."""
    if size == 0:
        raise ConfigError(
            f"{path} is empty, as an interrupted download leaves it; fetch it again", at=at
        )

    text = start.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise ConfigError(
            f"{path} is a git-lfs pointer of {size} bytes, not the weights; "
            "run `git lfs pull` in its folder, or download the file itself",
            at=at,
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ConfigError(
            f"{path} is a web page, not weights, as a download that needs a login leaves it; "
            "fetch it again",
            at=at,
        )
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")):
        raise ConfigError(_pickled(path), at=at)
    if start.startswith(b"GGUF"):
        raise ConfigError(
            f"{path} holds GGUF weights; only safetensors are loaded, so name those", at=at
        )
    if size < 8:
        raise ConfigError(_cut_short(path, size, None), at=at)


def check_suffix(path: Path, at: str = "model") -> None:
    """Raise `ConfigError` where a file's name says that it holds a pickle."""
    if path.suffix.lower() in PICKLES:
        raise ConfigError(_pickled(path), at=at)


def _pickled(path: Path) -> str:
    target = path.with_suffix(".safetensors")
    if target == path:
        target = path.with_name(f"{path.stem}-converted.safetensors")
    return (
        f"{path} is a pickle, which may hold code and is not loaded; convert it once and name the "
        f'result: {CONVERSION} "{path}" "{target}"'
    )


def _cut_short(path: Path, size: int, whole: int | None) -> str:
    of = ""
    if whole is not None:
        of = f" of at least {whole:,}"
    return f"{path} is cut short: it has {size:,}{of} bytes; fetch it again"


def _understood(path: Path, header: Any, room: int, at: str) -> Header:
    """The header, checked against the bytes that come after it."""
    broken = ConfigError(f"{path} is not a safetensors file: its header makes no sense", at=at)
    if not isinstance(header, dict):
        raise broken
    metadata = header.pop("__metadata__", None) or {}

    shapes: dict[str, tuple[int, ...]] = {}
    end = 0
    try:
        for name, about in header.items():
            shapes[name] = tuple(int(side) for side in about["shape"])
            end = max(end, int(about["data_offsets"][1]))
    except (KeyError, TypeError, ValueError, IndexError):
        raise broken from None

    if end > room:
        size = path.stat().st_size
        raise ConfigError(_cut_short(path, size, size - room + end), at=at)
    if end < room:
        raise ConfigError(
            f"{path} is damaged: it has {room - end:,} bytes more than its header tells of; "
            "fetch it again",
            at=at,
        )
    if not sum(math.prod(shape) for shape in shapes.values()):
        raise ConfigError(f"{path} holds no tensors", at=at)
    return Header(shapes, metadata)
