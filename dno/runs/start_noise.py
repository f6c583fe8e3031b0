"""The noise that a run starts from, on the sampler that it will be drawn with."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from dno.errors import ConfigError
from dno.media import png
from dno.paths import absolute, current_folder, user_path
from dno.protocols import NoiseMap, Sampler
from dno.runs.parts import at
from dno.runs.run_config import RunConfig
from dno.runs.start import GivenNoise, GivenPicture, picture_at
from dno.runs.storage import RunFolder, read_noise
from dno.runs.tensor_files import pack, unpack

if TYPE_CHECKING:
    from PIL.Image import Image

    from dno.core.problem import Problem


FOUND: Final = "found.safetensors"
"""What a run folder holds the noise in that a search for a picture found."""


def start_noise(
    config: RunConfig, sampler: Sampler, sample: NoiseMap, found: Tensor | None = None
) -> Tensor | None:
    """The noise where a run starts, `B x N`; None where that is the seeds' own.

    Args:
        config: what to run.
        sampler: the sampler, which may be able to find noise from which it draws a picture.
        sample: the sampler, bound to the run's items.
        found: what a search for the same start found before; None: nothing.

    Raises:
        ConfigError: there is none, or it was made for other draws or another number of samples.
    """
    start = config.start
    if start is None:
        return None
    if isinstance(start, GivenNoise):
        return at("start", partial(_placed, start.noise, sample, config))
    if found is not None and found.shape == sample.noise_BN.shape:
        return found
    if isinstance(start, GivenPicture):
        return at("start", partial(_drawing, start.picture, sampler, sample))

    path = user_path(start, at="start")
    picture = picture_at(path)
    if picture is not None:
        return at("start", partial(_drawing, picture, sampler, sample))
    return at("start", partial(read_noise, path, sample.draws, len(config.items())))


def keep_found(config: RunConfig, problem: Problem, folder: RunFolder) -> None:
    """Keep noise that was searched for, so that whoever begins the run again need not.

    Args:
        config: what is run.
        problem: posed for it.
        folder: where the file is written.
    """
    picture = searched_for(config)
    if picture is None:
        return
    noise_BN = problem.sample.noise_BN if problem.start_BN is None else problem.start_BN
    draws = [list(shape) for shape in problem.sample.draws]
    about = {"draws": draws, "picture": picture}
    folder.write(FOUND, pack({"best": noise_BN.detach().cpu()}, about))


def searched_for(config: RunConfig) -> str | None:
    """A digest of the picture whose noise is searched for, as people see it; None where none is.

    Raises:
        ConfigError: it cannot be read.
    """
    start: Any = config.start
    if start is None:
        start = getattr(config.sampler, "start_image", None)
    if isinstance(start, (str, Path)):
        path = user_path(start, at="start")
        picture = picture_at(path) if path.exists() else None
        return None if picture is None else GivenPicture(picture).digest()
    return start.digest() if isinstance(start, GivenPicture) else None


def read_found(path: Path, picture: str) -> Tensor | None:
    """What `keep_found` kept in a run folder; None where there is nothing of use.

    Args:
        path: the run folder.
        picture: digest of the one that noise is needed for.
    """
    try:
        about, tensors = unpack(path / FOUND)
        noise_BN = tensors["best"]
    except (KeyError, OSError, ValueError):
        return None
    if about.get("picture") != picture:
        return None
    fits = noise_BN.dim() == 2 and noise_BN.is_floating_point() and bool(noise_BN.isfinite().all())
    return noise_BN if fits else None


def keep_start(config: RunConfig, problem: Problem, folder: RunFolder) -> RunConfig:
    """The configuration with a start that was in memory in a file of the run folder.

    Args:
        config: what is run.
        problem: posed for it; holds the noise that the start led to.
        folder: where the file is written.
    """
    start = config.start
    if start is None or isinstance(start, Path):
        return config

    if isinstance(start, GivenPicture):
        name = "start.png"
        folder.write(name, png(start.picture))
    else:
        name = "start.safetensors"
        assert problem.start_BN is not None
        draws = [list(shape) for shape in problem.sample.draws]
        folder.write(name, pack({"best": problem.start_BN}, {"draws": draws}))
    file = absolute(folder.path / name, current_folder())
    return config.model_copy(update={"start": file})


def _placed(noise: Tensor, sample: NoiseMap, config: RunConfig) -> Tensor:
    """Given noise as `B x N`, a first draw alone with the seeds' own draws behind it."""
    samples = len(config.items())
    draws = [tuple(shape) for shape in sample.draws]
    entries = sum(map(math.prod, draws))
    shape = tuple(noise.shape)
    rows = (1, samples)

    if shape == (entries,) or (len(shape) == 2 and shape[1] == entries and shape[0] in rows):
        return noise.float().reshape(-1, entries).expand(samples, -1).clone()

    if shape == draws[0] or (shape[1:] == draws[0] and shape[0] in rows):
        if getattr(config.sampler, "last_steps", None) is not None:
            raise ConfigError(
                "is the shape of the first latent, which does not move where last_steps is given; "
                f"give all noise that moves, {samples} x {entries}"
            )
        first = noise.float().reshape(-1, math.prod(draws[0])).expand(samples, -1)
        rest = sample.noise_BN[:, first.shape[1] :].detach().float().cpu()
        return torch.cat([first, rest], dim=1)

    or_one = f" (or 1 x {entries} for all)" if samples > 1 else ""
    raise ConfigError(
        f"is noise of shape {_told(shape)}; this run needs {samples} x {entries}{or_one}, or its "
        f"first draw alone, {samples} x {_told(draws[0])}"
    )


def _drawing(picture: Image, sampler: Any, sample: NoiseMap) -> Tensor:
    """Noise from which the sampler draws a picture."""
    find = getattr(sampler, "noise_of", None)
    if find is None:
        raise ConfigError(
            "is a picture, and this sampler cannot find noise that draws it; use the sampler ddim, "
            "or give the picture as image to a pipeline that redraws it"
        )
    noise_BN: Tensor = find(picture, sample)
    return noise_BN


def _told(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
