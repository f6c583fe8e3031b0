"""Whether parts of the noise have the same power: bands of frequency, draws, places."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dno_builtin.regularizers._equal_power import Spread
from dno_builtin.regularizers._tails import UNTESTED, host, log_least

_BANDS = 8
_SIDE = 8
"""Parts along each side of a map."""
_PART = 16
"""Least entries of such a part."""
_PLACE = 8
"""Least entries of a single place."""


def log_p_spectrum(groups: Sequence[Tensor]) -> Tensor:
    """Of the powers of bands of spatial frequency.

    A band's power, summed over frequencies of both signs, is chi-squared under white noise with as
    many degrees of freedom as there are such frequencies; it is independent of the other bands'.
    """
    power = torch.zeros(_BANDS, dtype=torch.float64)
    count = torch.zeros(_BANDS, dtype=torch.float64)
    for maps_KChw in groups:
        draws, channel_count, h, w = maps_KChw.shape
        band, times = _bands(h, w)
        spectrum = torch.fft.rfft2(maps_KChw, norm="ortho")
        summed = host(torch.view_as_real(spectrum).square().sum((0, 1, 4)))
        power.index_add_(0, band, (times * summed).flatten())
        count.index_add_(0, band, draws * channel_count * times.flatten())
    return log_p_equal(power, count)


def log_p_equal(power: Tensor, count: Tensor) -> Tensor:
    """Of parts with these powers over so many entries; 1 where all is in one part."""
    power = power[count > 0]
    count = count[count > 0]
    if len(count) < 2:
        return UNTESTED
    return Spread.of(power, count).log_p()


@functools.cache
def _bands(h: int, w: int) -> tuple[Tensor, Tensor]:
    """Of each frequency of a real transform: its band, flat; how often the whole one has it, `h x
    (w // 2 + 1)`.
    """
    radius = torch.fft.fftfreq(h, dtype=torch.float64)[:, None].hypot(
        torch.fft.rfftfreq(w, dtype=torch.float64)
    )
    band = (radius * (2 * _BANDS)).long().clamp(max=_BANDS - 1)
    times = torch.full_like(radius, 2)
    times[:, 0] = 1
    if w % 2 == 0:
        times[:, -1] = 1
    return band.flatten(), times


def log_p_together(groups: Sequence[Tensor]) -> Tensor:
    """Of the powers of octaves of temporal frequency: 0, 1, 2 to 3, 4 to 7 and so on.

    The draws' discrete cosine transform is orthonormal, so that its entries are N(0, 1) again.
    """
    octaves = 2 + max(len(maps_KChw) for maps_KChw in groups).bit_length()
    power = torch.zeros(octaves, dtype=torch.float64)
    count = torch.zeros(octaves, dtype=torch.float64)
    for maps_KChw in groups:
        draws_Kn = maps_KChw.flatten(1)
        draws, entries = draws_Kn.shape
        if draws < 2:
            continue
        transformed_Kn = _cosines(draws).to(draws_Kn) @ draws_Kn
        octave = torch.tensor([j.bit_length() for j in range(draws)])
        power.index_add_(0, octave, host(transformed_Kn.square().sum(1)))
        count.index_add_(0, octave, torch.full((draws,), float(entries), dtype=torch.float64))
    return log_p_equal(power, count)


@functools.cache
def _cosines(size: int) -> Tensor:
    """The orthonormal discrete cosine transform of type II, `frequency x draw`."""
    steps = torch.arange(size, dtype=torch.float64)
    table = (math.pi / size * steps[:, None] * (steps + 0.5)).cos() * math.sqrt(2 / size)
    table[0] *= math.sqrt(0.5)
    return table


def log_p_draw_norms(squared: Sequence[Tensor]) -> Tensor:
    """Of the powers of the draws."""
    power = torch.cat([host(squared_KChw.flatten(1).sum(1)) for squared_KChw in squared])
    count = torch.cat(
        [
            torch.full((len(squared_KChw),), float(squared_KChw[0].numel()), dtype=torch.float64)
            for squared_KChw in squared
        ]
    )
    return log_p_equal(power, count)


def log_p_places(squared: Sequence[Tensor]) -> Tensor:
    """Of the powers of parts of the map, and of places inside the parts; the less likely of both.

    Parts find what is large, places what is small; they are independent.
    """
    found = []
    parts = [_of_parts(squared_KChw) for squared_KChw in squared]
    between = _spread(parts)
    if between is not None:
        found.append(between.log_p())

    for squared_KChw, (part_power, part_count) in zip(squared, parts, strict=True):
        draws, channel_count, h, w = squared_KChw.shape
        in_a_place = draws * channel_count
        if in_a_place < _PLACE or len(part_count) == h * w:
            continue
        power = host(squared_KChw.sum((0, 1)).flatten())
        count = torch.full_like(power, in_a_place)
        within = Spread.of(power, count).within(Spread.of(part_power, part_count))
        found.append(within.log_p())

    if not found:
        return UNTESTED
    return log_least(torch.stack(found))


def _spread(parts: Sequence[tuple[Tensor, Tensor]]) -> Spread | None:
    power = torch.cat([power for power, _ in parts])
    count = torch.cat([count for _, count in parts])
    if len(count) < 2:
        return None
    return Spread.of(power, count)


def _of_parts(squared_KChw: Tensor) -> tuple[Tensor, Tensor]:
    """The powers of at most 8 x 8 parts of the map, and the entries of each."""
    draws, channel_count, h, w = squared_KChw.shape
    rows = min(h, _SIDE)
    columns = min(w, _SIDE)
    while rows * columns > 1 and squared_KChw.numel() < _PART * rows * columns:
        if rows > columns:
            rows = (rows + 1) // 2
        else:
            columns = (columns + 1) // 2

    row_h = torch.arange(h) * rows // h
    column_w = torch.arange(w) * columns // w
    part = (row_h[:, None] * columns + column_w).flatten()
    in_a_place = torch.full((h * w,), float(draws * channel_count), dtype=torch.float64)

    power = torch.zeros(rows * columns, dtype=torch.float64)
    count = torch.zeros(rows * columns, dtype=torch.float64)
    power.index_add_(0, part, host(squared_KChw.sum((0, 1)).flatten()))
    count.index_add_(0, part, in_a_place)
    return power, count
