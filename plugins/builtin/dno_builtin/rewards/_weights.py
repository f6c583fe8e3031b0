"""Reading published weights: tensors alone, never code, and pickled files converted once to
safetensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file, save_file
from torch import Tensor

from dno.plugin import ConfigError, first_line, quiet
from dno_builtin._lift import Lift

_log = logging.getLogger("dno")


def cache_folder() -> Path:
    """Where converted weights are kept: `DNO_CACHE`, or `dno` in the user's cache folder. It may be
    deleted.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("DNO_CACHE") or Path(base, "dno")).expanduser()


def read_weights(path: Path, at: str = "model") -> dict[str, Tensor]:
    """The tensors of a checkpoint, by name, on the CPU.

    A `.safetensors` file is read as it is. Any other is unpickled with
    `torch.load(weights_only=True)`, which makes tensors and plain containers and runs no code, and
    its tensors are kept as safetensors for the next time.

    Args:
        path: a file of tensors by name, maybe under a key `state_dict`.
        at: the option that errors are about.

    Raises:
        ConfigError: the file holds code, or cannot be read.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        converted = _converted_name(path)
        if converted.exists():
            return load_file(converted)
        state = _unpickle(path)
    except ConfigError as error:
        raise error.inside(at) from None
    except Exception as error:
        raise ConfigError(
            f'"{path}" cannot be read as weights: {first_line(error)}', at=at
        ) from error
    _keep(state, converted)
    return state


def _converted_name(path: Path) -> Path:
    """Changes with the file's place, size and time, so that another file is never taken for it."""
    real = path.resolve()
    stat = real.stat()
    key = hashlib.sha256(f"{real}\n{stat.st_size}\n{stat.st_mtime_ns}".encode()).hexdigest()[:16]
    return cache_folder() / "weights" / f"{path.stem}-{key}.safetensors"


def _unpickle(path: Path) -> dict[str, Tensor]:
    try:
        with quiet():
            # Mapped, a checkpoint is not held in memory twice; files from before torch 1.6 are no
            # zip archives.
            mapped = zipfile.is_zipfile(path)
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise ConfigError(
                f'"{path}" holds pickled code, which was not run; get the weights as a '
                ".safetensors file"
            ) from None
        raise
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping):
        raise ConfigError(f'"{path}" holds a {type(found).__name__}, not tensors by name')
    # Copies: safetensors takes no two names for one piece of memory.
    state = {
        str(key).removeprefix("module."): value.detach().clone().contiguous()
        for key, value in found.items()
        if isinstance(value, Tensor)
    }
    if not state:
        raise ConfigError(f'"{path}" holds no tensors by name')
    return state


def _keep(state: Mapping[str, Tensor], path: Path) -> None:
    """Write in one step, so that a reader finds all of it or nothing."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        os.close(handle)
        save_file(dict(state), temporary, metadata={"format": "pt"})
        Path(temporary).replace(path)
    except Exception as error:  # safetensors has an error type of its own for a full disk.
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        _log.warning(
            "converted weights could not be kept in %s, set DNO_CACHE: %s",
            path.parent,
            first_line(error),
        )


@contextlib.contextmanager
def loading(model: str, what: str, at: str = "model") -> Iterator[None]:
    """Quiet, and with any error told as one sentence: `model` could not be loaded as a `what`."""
    try:
        with quiet():
            yield
    except ConfigError as error:
        raise error if error.at else ConfigError(f'"{model}": {error.problem}', at=at) from None
    except Exception as error:  # What goes wrong in there has many types, most of them plain ones.
        raise ConfigError(
            f'"{model}" could not be loaded as a {what}: {first_line(error)}', at=at
        ) from error


def build(
    cls: Any, config: Any, state: Mapping[str, Tensor], dtype: torch.dtype, **options: Any
) -> Any:
    """A transformers model of class `cls` from tensors by its own names, frozen.

    Raises:
        ConfigError: tensors are missing or have other sizes.
    """
    network, found = cls.from_pretrained(
        None,
        config=config,
        state_dict=dict(state),
        dtype=dtype,
        trust_remote_code=False,
        output_loading_info=True,
        **options,
    )
    if missing := sorted(found["missing_keys"]):
        raise ConfigError(
            f"it lacks {len(missing)} of a {cls.__name__}'s weights, such as {missing[0]}"
        )
    return network.eval().requires_grad_(False)


def count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered blocks there are under `prefix`, as in `prefix.0.weight`."""
    return len({key[len(prefix) :].partition(".")[0] for key in state if key.startswith(prefix)})


def linear_layers(state: Mapping[str, Tensor], prefix: str) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of the linear layers of a `Sequential` whose names start with `prefix`, in
    order, in float32.
    """
    numbers = sorted(
        int(key.removeprefix(prefix).removesuffix(".weight"))
        for key in state
        if key.startswith(prefix) and key.endswith(".weight")
    )
    layers = [
        (state[f"{prefix}{n}.weight"].float(), state[f"{prefix}{n}.bias"].float()) for n in numbers
    ]
    widths = [(weight.shape[1], weight.shape[0]) for weight, _ in layers]
    if not layers or widths[-1][1] != 1 or any(a[1] != b[0] for a, b in pairwise(widths)):
        raise ConfigError(
            f'it holds no head: layers that end in one number, named "{prefix}0.weight" and so on'
        )
    return layers


def apply_layers(layers: list[tuple[Tensor, Tensor]], features_BF: Tensor) -> Tensor:
    """`B` scores: the layers one after another, with nothing between them (dropout acts in training
    alone).
    """
    for weight, bias in layers:
        features_BF = F.linear(
            features_BF, weight.to(features_BF.dtype), bias.to(features_BF.dtype)
        )
    return features_BF.squeeze(1)


def seen_in(dtype: torch.dtype, pixels: Tensor, look: Callable[[Tensor], Tensor]) -> Tensor:
    """What a model in that dtype answers of pixels, in at least float32.

    Gradients on their way through float16 are scaled, so that they are not lost in it.

    Args:
        dtype: the model's.
        pixels: `B x ...`, in at least float32.
        look: the model's answer, a row for each of the pixels'.
    """
    if dtype != torch.float16:
        return full(look(pixels.to(dtype)))
    lift = Lift()
    narrow: Tensor = lift.enter(pixels).to(dtype)
    answer: Tensor = lift.leave(full(look(narrow)))
    return answer


def full(values: Tensor) -> Tensor:
    """The values in at least float32."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
