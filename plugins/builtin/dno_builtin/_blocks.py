"""Noise in blocks: how much of each frequency it has, and in which direction.

The draws of one shape, K maps of C x h x w, are turned by an orthonormal transform: a DCT-II over
the draws and a 2-D FFT over each map. Block (j, +-f) is what has temporal frequency j and spatial
frequency f or -f: all channels, sine and cosine, so 2 C real entries, and C where f is its own
mirror image. Of N(0, I) noise all blocks are independent, and of each the energy is independent of
the direction.

Letters, beside those of `dno.protocols`:
    F  spatial frequencies that the transform of a real map has, h (w // 2 + 1)
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dno.plugin import ConfigError


def as_map(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """`C h w` of a draw.

    Its last two axes are a map, and those before them (channels, frames) are channels. A draw of
    two axes is a sequence of channels, `C x 1 x L`; one of one axis is a line, `1 x 1 x L`.
    """
    if len(shape) < 3:
        channels = math.prod(shape[:-1])
        return channels, 1, math.prod(shape[-1:])
    height, width = shape[-2:]
    return math.prod(shape[:-2]), height, width


@dataclass(frozen=True)
class Group:
    """The draws of one shape in a row of noise."""

    places: tuple[int, ...]
    """Which draws of the row."""
    channels: int
    height: int
    width: int

    @property
    def entries_a_channel(self) -> int:
        """Entries that all the draws have in one channel."""
        return len(self.places) * self.height * self.width

    @property
    def can_turn(self) -> bool:
        """Whether any block has more than one entry: channels, or a sine beside its cosine."""
        return self.channels > 1 or max(self.height, self.width) > 2

    def blocks(self, maps_KChw: Tensor) -> Tensor:
        """The transform of these draws, real: `K x C x F x 2`; squares add up to the draws' own."""
        spectrum = torch.fft.rfft2(maps_KChw, norm="ortho")
        parts = torch.view_as_real(spectrum) * self._share(maps_KChw).sqrt()
        return self.over_draws(parts.view(*maps_KChw.shape[:2], -1, 2))

    def maps(self, blocks_KCF2: Tensor) -> Tensor:
        """The draws of a transform, `K x C x h x w`."""
        parts = self.draw_by_draw(blocks_KCF2)
        parts = parts.view(*parts.shape[:2], self.height, -1, 2) / self._share(parts).sqrt()
        size = (self.height, self.width)
        maps_KChw: Tensor = torch.fft.irfft2(torch.view_as_complex(parts), s=size, norm="ortho")
        return maps_KChw

    def over_draws(self, parts: Tensor) -> Tensor:
        """The DCT-II over the first axis, `K`."""
        return (_dct(len(parts)).to(parts) @ parts.flatten(1)).view_as(parts)

    def draw_by_draw(self, parts: Tensor) -> Tensor:
        """What `over_draws` was given."""
        return (_dct(len(parts)).T.to(parts) @ parts.flatten(1)).view_as(parts)

    def entries(self, like: Tensor) -> Tensor:
        """Real entries that each of the F frequencies stands for, as floats: `F x 1`."""
        share = self._share(like).expand(self.height, -1, 1)
        return self.channels * share.reshape(-1, 1)

    def _share(self, like: Tensor) -> Tensor:
        """2 for columns that stand for their mirror images too, 1 for the others: `(w // 2 + 1) x
        1`.
        """
        return _columns(self.width).to(like)


@functools.cache
def _dct(count: int) -> Tensor:
    """The orthonormal DCT-II as a matrix, frequencies down, float64."""
    frequency = torch.arange(count, dtype=torch.float64)[:, None]
    place = torch.arange(count, dtype=torch.float64) + 0.5
    waves = torch.cos(math.pi / count * frequency * place) * math.sqrt(2 / count)
    waves[0] *= math.sqrt(0.5)
    return waves


@functools.cache
def _columns(width: int) -> Tensor:
    share = torch.full((width // 2 + 1, 1), 2.0)
    share[0] = 1
    if width % 2 == 0:
        share[-1] = 1
    return share


@functools.cache
def groups(draws: tuple[tuple[int, ...], ...]) -> tuple[Group, ...]:
    """The draws of a row, those of one shape together."""
    places = defaultdict(list)
    for place, shape in enumerate(draws):
        places[as_map(shape)].append(place)
    return tuple(Group(tuple(found), *shape) for shape, found in places.items())


@dataclass(frozen=True)
class Layout:
    """How a row of noise is cut into draws.

    Args:
        draws: the shape of each, in order; without any, a row is one line.
    """

    draws: tuple[tuple[int, ...], ...] = ()

    def check_it_turns(self) -> None:
        """Raise `ConfigError` where each block has one entry, so that none has a direction."""
        found = groups(self.draws)
        if found and not any(group.can_turn for group in found):
            shapes = ", ".join(str(shape) for shape in dict.fromkeys(self.draws))
            raise ConfigError(
                f"cannot move draws of shape {shapes}: each frequency has one entry, and so no "
                "direction to turn to; choose another optimizer, such as adam, and no shell"
            )

    def groups(self, noise_N: Tensor) -> tuple[Group, ...]:
        """The groups of a row."""
        return groups(self._shapes(noise_N))

    def blocks(self, noise_N: Tensor) -> list[Tensor]:
        """The transform of each group of a row."""
        shapes = self._shapes(noise_N)
        draws = torch.split(noise_N, [math.prod(shape) for shape in shapes])
        found = []
        for group in groups(shapes):
            size = (len(group.places), group.channels, group.height, group.width)
            maps_KChw = torch.stack([draws[place] for place in group.places]).view(size)
            found.append(group.blocks(maps_KChw))
        return found

    def noise(self, blocks: Sequence[Tensor], like_N: Tensor) -> Tensor:
        """The row that has these transforms, as long as another."""
        shapes = self._shapes(like_N)
        draws: dict[int, Tensor] = {}
        for group, blocks_KCF2 in zip(groups(shapes), blocks, strict=True):
            rows = group.maps(blocks_KCF2).flatten(1)
            draws |= dict(zip(group.places, rows, strict=True))
        return torch.cat([draws[place] for place in range(len(shapes))])

    def _shapes(self, noise_N: Tensor) -> tuple[tuple[int, ...], ...]:
        return self.draws or ((noise_N.numel(),),)


def inner(one_KCF2: Tensor, other_KCF2: Tensor) -> Tensor:
    """Sums of products over the channels, sine and cosine: `K x 1 x F x 1`."""
    # One axis after the other: both at once are ten times slower on a CPU.
    return (one_KCF2 * other_KCF2).sum(1, keepdim=True).sum(3, keepdim=True)


def energies(blocks_KCF2: Tensor) -> Tensor:
    """Sums of squares over the channels, sine and cosine: `K x 1 x F x 1`."""
    return inner(blocks_KCF2, blocks_KCF2)
