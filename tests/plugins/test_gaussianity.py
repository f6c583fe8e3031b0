"""The report of Gaussianity: right about Gaussian noise, and seeing what each figure is for."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import pytest
import torch
from dno_builtin.regularizers._equal_power import Spread
from dno_builtin.regularizers._figures import FIGURES
from dno_builtin.regularizers._gaussianity import wishart_scores
from dno_builtin.regularizers._maps import as_field, maps
from dno_builtin.regularizers._marginals import (
    kolmogorov_distance,
    log_p_kurtosis,
    log_p_skewness,
    shape_of,
)
from dno_builtin.regularizers._tails import (
    log_chi2_two_sided,
    log_gamma_lower,
    log_gamma_upper,
    log_kolmogorov,
    log_least,
)
from dno_builtin.regularizers.gaussianity import Gaussianity
from pydantic import ValidationError
from torch import Generator, Tensor

from dno.plugin import BuildContext, Penalty

Draws = tuple[tuple[int, ...], ...]

SMALL: Draws = ((4, 8, 8),) * 20
LARGE: Draws = ((4, 64, 64),) * 51
ONE: Draws = ((4, 16, 16),)
MIXED: Draws = ((300,), (3, 2, 9, 11), (40, 8), (3, 2, 9, 11), (5,))
SPOILT: Draws = ((4, 16, 16),) * 20


def entries(draws: Draws) -> int:
    return sum(math.prod(shape) for shape in draws)


def gaussian(rows: int, draws: Draws, seed: int = 0) -> Tensor:
    generator = Generator().manual_seed(seed)
    return torch.randn(rows, entries(draws), generator=generator)


def report(noise_BN: Tensor, draws: Draws, config: Gaussianity | None = None) -> Penalty:
    context = BuildContext(device=torch.device("cpu"), dtype=torch.float32, draws=draws)
    found = (config or Gaussianity()).build(context)(noise_BN, [Generator() for _ in noise_BN])
    assert isinstance(found, Penalty)
    assert not found.value_B.any()
    return found


def p_values(noise_BN: Tensor, draws: Draws) -> dict[str, Tensor]:
    figures = report(noise_BN, draws).figures
    return {name: figure_B.double() for name, figure_B in figures.items()}


@functools.cache
def of_gaussian(rows: int, draws: Draws) -> dict[str, Tensor]:
    return p_values(gaussian(rows, draws, seed=5), draws)


def assert_uniform(p: Tensor) -> None:
    """Counts below three levels within 4 standard errors and 2, and Kolmogorov's distance under its
    0.1 % point.
    """
    n = len(p)
    for level in (0.05, 0.01, 0.001):
        expected = level * n
        allowed = 4 * math.sqrt(expected * (1 - level)) + 2
        assert abs((p < level).sum().item() - expected) < allowed, level
    distance = (p.sort().values - (torch.arange(n) + 0.5) / n).abs().max().item() + 0.5 / n
    assert distance * math.sqrt(n) < 1.95


# Right about Gaussian noise.


@dataclass(frozen=True)
class Size:
    id: str
    draws: Draws
    rows: int
    untested: frozenset[str] = frozenset()


SIZES = [
    Size("twenty small draws", SMALL, 2000),
    Size("one draw", ONE, 600, frozenset({"p_together", "p_draw_norms"})),
    Size("draws of different shapes", MIXED, 1000),
    Size(
        "one channel",
        ((1, 8, 8),),
        600,
        frozenset({"p_together", "p_draw_norms", "p_channels", "p_kurtosis"}),
    ),
    Size("as large as Stable Diffusion's", LARGE, 12),
]


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.id)
def test_p_values_of_gaussian_noise_are_uniform(size: Size) -> None:
    found = of_gaussian(size.rows, size.draws)
    assert set(found) == set(FIGURES)
    for name, p in found.items():
        if name in size.untested:
            assert (p == 1).all(), name
        else:
            assert_uniform(p)


@pytest.mark.slow
def test_an_ordinary_draw_is_healthy_in_99_of_100_cases() -> None:
    figures = of_gaussian(2000, SMALL)
    least_B = torch.stack(list(figures.values())).amin(0) * len(figures)
    # 20 expected at most; more than 38 would be seen once in ten thousand times.
    assert (least_B < 0.01).sum() <= 38


@pytest.mark.parametrize(
    "draws",
    [
        ((2,),),
        ((1,), (1, 1, 2)),
        ((4, 1, 1),),
        ((50,),),
        ((1, 1, 1),) * 3,
        ((24, 2, 2),) * 2,
        ((16, 64),) * 2,
        (),
    ],
    ids=str,
)
def test_any_noise_can_be_reported_on(draws: Draws) -> None:
    noise_BN = gaussian(300, draws or ((33,),))
    found = p_values(noise_BN, draws)
    for name, p in found.items():
        assert p.isfinite().all()
        assert ((p > 0) & (p <= 1)).all()
        # Where there is too little, all are 1; else low ones are no more than they should be.
        assert (p < 0.01).sum() <= 3 + 4 * math.sqrt(3), name
    assert_uniform(found["p_mean"])
    assert_uniform(found["p_norm"])


# Each sees what it is for.


def as_maps(noise_BN: Tensor) -> Tensor:
    """`B K C h w`."""
    return noise_BN.unflatten(1, (20, 4, 16, 16)).clone()


def of_norms(maps_BKChw: Tensor, noise_BN: Tensor) -> Tensor:
    """With the norms that the draws had."""
    were = as_maps(noise_BN).flatten(2).norm(dim=2)
    are = maps_BKChw.flatten(2).norm(dim=2)
    return (maps_BKChw * (were / are)[..., None, None, None]).flatten(1)


def shifted(noise_BN: Tensor) -> Tensor:
    return noise_BN + 0.06


def scaled(noise_BN: Tensor) -> Tensor:
    return 1.06 * noise_BN


def with_a_part_in_common(noise_BN: Tensor) -> Tensor:
    common = as_maps(gaussian(len(noise_BN), SPOILT, seed=11))[:, :1]
    return of_norms(as_maps(noise_BN) + 0.15 * common, noise_BN)


def like_the_draw_before(noise_BN: Tensor) -> Tensor:
    maps_BKChw = as_maps(noise_BN)
    return of_norms(maps_BKChw + 0.15 * maps_BKChw.roll(1, 1), noise_BN)


def opposed(noise_BN: Tensor) -> Tensor:
    maps_BKChw = as_maps(noise_BN)
    return of_norms(maps_BKChw - 0.3 * maps_BKChw.mean(1, keepdim=True), noise_BN)


def of_alike_channels(noise_BN: Tensor) -> Tensor:
    maps_BKChw = as_maps(noise_BN)
    maps_BKChw[:, :, 1] = 0.2 * maps_BKChw[:, :, 0] + math.sqrt(0.96) * maps_BKChw[:, :, 1]
    return maps_BKChw.flatten(1)


def of_alike_neighbours(noise_BN: Tensor) -> Tensor:
    vectors = noise_BN.unflatten(1, (-1, 4)).clone()
    vectors[..., 0] = 0.2 * vectors[..., 1] + math.sqrt(0.96) * vectors[..., 0]
    return vectors.flatten(1)


def smoothed(noise_BN: Tensor) -> Tensor:
    maps_BKChw = as_maps(noise_BN)
    return of_norms(maps_BKChw + 0.1 * maps_BKChw.roll(1, -1), noise_BN)


def heavy_tailed(noise_BN: Tensor) -> Tensor:
    scale = as_maps(gaussian(len(noise_BN), SPOILT, seed=12))
    return of_norms(as_maps(noise_BN) * (0.35 * scale).exp(), noise_BN)


def skewed(noise_BN: Tensor) -> Tensor:
    maps_BKChw = as_maps(noise_BN)
    bent = maps_BKChw + 0.1 * maps_BKChw.square()
    bent = bent - (bent - maps_BKChw).mean((1, 2, 3, 4), keepdim=True)
    return of_norms(bent, noise_BN)


def with_one_long_draw(noise_BN: Tensor) -> Tensor:
    maps_BKChw = as_maps(noise_BN)
    maps_BKChw[:, 7] *= 1.3
    noise_norm = noise_BN.norm(dim=1, keepdim=True)
    return torch.nn.functional.normalize(maps_BKChw.flatten(1), dim=1) * noise_norm


def with_a_loud_corner(noise_BN: Tensor) -> Tensor:
    maps_BKChw = as_maps(noise_BN)
    maps_BKChw[..., :6, :6] *= 1.2
    return of_norms(maps_BKChw, noise_BN)


def with_a_loud_place(noise_BN: Tensor) -> Tensor:
    maps_BKChw = as_maps(noise_BN)
    maps_BKChw[..., 5, 9] *= 3.0
    return of_norms(maps_BKChw, noise_BN)


def with_two_odd_draws(noise_BN: Tensor) -> Tensor:
    maps_BKChw = as_maps(noise_BN)
    maps_BKChw[:, 3] += 0.3
    maps_BKChw[:, 12] -= 0.3
    return of_norms(maps_BKChw, noise_BN)


@dataclass(frozen=True)
class Fault:
    spoilt: Callable[[Tensor], Tensor]
    finds: str
    misses: str

    @property
    def id(self) -> str:
        return self.spoilt.__name__


EQUAL = "p_spectrum p_together p_draw_norms p_places"
FAULTS = [
    Fault(shifted, "p_mean p_ks", "p_norm p_skewness p_kurtosis p_draw_norms p_places"),
    Fault(scaled, "p_norm p_covariance p_channels", f"p_mean p_skewness p_kurtosis {EQUAL}"),
    Fault(
        with_a_part_in_common,
        "p_together",
        "p_mean p_norm p_skewness p_kurtosis p_ks p_ks_draws p_spectrum p_draw_norms p_channels",
    ),
    Fault(like_the_draw_before, "p_together", "p_norm p_draw_norms p_kurtosis p_channels p_ks"),
    Fault(opposed, "p_together", "p_norm p_draw_norms p_skewness p_kurtosis p_ks p_spectrum"),
    Fault(
        of_alike_channels,
        "p_channels",
        f"p_mean p_norm p_covariance p_skewness p_kurtosis p_ks p_ks_draws {EQUAL}",
    ),
    Fault(of_alike_neighbours, "p_covariance", "p_mean p_norm p_channels p_together p_kurtosis"),
    Fault(smoothed, "p_spectrum p_covariance", "p_norm p_draw_norms p_together p_kurtosis p_ks"),
    Fault(heavy_tailed, "p_kurtosis p_ks", "p_mean p_norm p_together p_spectrum p_draw_norms"),
    Fault(skewed, "p_skewness p_ks", "p_norm p_together p_draw_norms p_channels"),
    Fault(with_one_long_draw, "p_draw_norms", "p_mean p_norm p_spectrum p_places p_channels"),
    Fault(with_a_loud_corner, "p_places", "p_mean p_norm p_together p_draw_norms p_channels"),
    Fault(with_a_loud_place, "p_places", "p_mean p_norm p_together p_draw_norms p_channels"),
    Fault(with_two_odd_draws, "p_ks_draws", "p_mean p_norm p_draw_norms p_ks p_channels"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_each_p_value_sees_what_it_is_for_and_nothing_else(fault: Fault) -> None:
    found = p_values(fault.spoilt(gaussian(30, SPOILT, seed=3)), SPOILT)
    for name in fault.finds.split():
        assert found[name].max() < 1e-4, name
    for name in fault.misses.split():
        # 1 % of 30: more than 4 would be seen once in a hundred thousand times.
        assert (found[name] < 0.01).sum() <= 4, name


def test_every_figure_is_shown_to_see_something() -> None:
    assert {name for fault in FAULTS for name in fault.finds.split()} == set(FIGURES)


def test_the_norm_and_the_mean_do_not_matter_to_figures_that_do_not_depend_on_them() -> None:
    noise_BN = gaussian(2, SMALL).double()
    plain = p_values(noise_BN, SMALL)
    longer = p_values(3 * noise_BN, SMALL)
    for name in ("p_skewness", "p_kurtosis", *EQUAL.split()):
        torch.testing.assert_close(longer[name], plain[name], rtol=1e-6, atol=0)
    for name in ("p_skewness", "p_kurtosis"):
        torch.testing.assert_close(
            p_values(noise_BN + 2, SMALL)[name], plain[name], rtol=1e-6, atol=0
        )


def test_a_draw_that_is_a_twentieth_too_long_is_seen_among_large_ones() -> None:
    noise_BN = gaussian(1, LARGE, seed=4)
    maps_BKn = noise_BN.unflatten(1, (51, -1))
    before = p_values(noise_BN, LARGE)["p_draw_norms"]
    maps_BKn[:, 30] *= 1.05
    assert before > 0.01
    assert p_values(noise_BN, LARGE)["p_draw_norms"] < 1e-4


def test_axes_that_are_channels() -> None:
    noise_N = torch.arange(entries(MIXED), dtype=torch.float32)
    line, video, sequence, point = maps(noise_N, MIXED, as_field)
    assert line.shape == (1, 1, 1, 300)
    assert video.shape == (2, 6, 9, 11)
    assert sequence.shape == (1, 40, 1, 8)
    assert sequence[0, :, 0, 0].tolist() == (300 + 594 + 8 * torch.arange(40)).tolist()
    assert point.shape == (1, 1, 1, 5)


# Far out.


@pytest.mark.parametrize("bad", [0.0, 1e200], ids=["none", "huge"])
def test_p_values_are_never_0(bad: float) -> None:
    noise_BN = gaussian(1, SMALL).double() * bad
    found = report(noise_BN, SMALL, Gaussianity(health=FIGURES))
    least = torch.stack(list(found.figures.values()))
    assert ((least > 0) & (least <= 1)).all()
    assert found.log_p_B is not None
    assert found.log_p_B.isfinite().all()
    assert found.log_p_B < -1000


def test_noise_that_is_not_finite_has_no_p_values() -> None:
    noise_BN = gaussian(2, SMALL)
    noise_BN[1, 7] = math.inf
    found = report(noise_BN, SMALL, Gaussianity(health=("p_ks",)))
    assert found.log_p_B is not None
    for told in (*found.figures.values(), found.log_p_B):
        assert told.isfinite().tolist() == [True, False]


# Health.


def test_log_p_is_bonferronis_of_the_figures_named_and_none_without_any() -> None:
    noise_BN = torch.cat(
        [gaussian(1, SPOILT), 1.02 * gaussian(1, SPOILT), skewed(gaussian(1, SPOILT))]
    )
    named = Gaussianity(health=("p_mean", "p_norm", "p_skewness"))
    found = report(noise_BN, SPOILT, named)
    assert report(noise_BN, SPOILT).log_p_B is None
    assert found.log_p_B is not None

    least_B = torch.stack([found.figures[name] for name in named.health]).amin(0)
    torch.testing.assert_close(found.log_p_B[:2], (3 * least_B[:2]).log().clamp(max=0))
    # Under what a float32 holds.
    assert found.log_p_B[2] < -200


def test_log_p_of_a_row_is_its_own() -> None:
    noise_BN = gaussian(3, SMALL)
    config = Gaussianity(health=FIGURES)
    together = report(noise_BN, SMALL, config).log_p_B
    alone = [report(row[None], SMALL, config).log_p_B for row in noise_BN]
    assert together is not None
    assert all(row is not None and row[0] == together[i] for i, row in enumerate(alone))


def test_an_unknown_figure_is_refused() -> None:
    with pytest.raises(ValidationError, match="p_cubes"):
        Gaussianity(health=("p_cubes",))


# What the figures are made of, against other ways to the same numbers.


@pytest.mark.parametrize(("rows", "n"), [(1, 1), (3, 8), (4, 257), (2, 20_000)])
def test_kolmogorovs_distance_is_that_of_sorted_entries(rows: int, n: int) -> None:
    noise_KN = 1.1 * torch.randn(rows, n, generator=Generator().manual_seed(n)) + 0.05
    noise_KN[0, 0] = 20.0
    place_KN = torch.special.ndtr(noise_KN.double()).sort(dim=1).values
    steps = torch.arange(n, dtype=torch.float64) / n
    expected_K = torch.maximum(place_KN - steps, steps + 1 / n - place_KN).amax(1)
    torch.testing.assert_close(
        kolmogorov_distance(noise_KN).double(), expected_K, atol=3e-7, rtol=0
    )


@pytest.mark.parametrize(
    ("n", "distance", "p"),
    [
        (10, 0.40925, 0.05),
        (20, 0.29408, 0.05),
        (20, 0.35241, 0.01),
        (1_000_000, 1.3581e-3, 0.05),
        (1_000_000, 1.6276e-3, 0.01),
        (1_000_000, 0.5712e-3, 0.9),
    ],
)
def test_kolmogorovs_tail_is_the_tabulated_one(n: int, distance: float, p: float) -> None:
    """Miller, J. Am. Stat. Assoc. 51 (1956), table 1; Smirnov (1948) for the limit."""
    found = log_kolmogorov(torch.tensor([distance], dtype=torch.float64), n).exp().item()
    assert found == pytest.approx(p, rel=0.05)


@pytest.mark.parametrize("shape", [0.5, 3.0, 150.0, 4e5])
def test_gamma_tails_are_the_exact_ones_even_where_they_underflow(shape: float) -> None:
    with mpmath.workdps(40):
        for deviations in (-0.9, -0.5, 0.0, 3.0, 30.0, 300.0):
            x = shape + deviations * (math.sqrt(shape) if deviations > 0 else shape)
            upper = mpmath.log(mpmath.gammainc(shape, x, mpmath.inf, regularized=True))
            at = torch.tensor(x, dtype=torch.float64)
            assert log_gamma_upper(at, shape).item() == pytest.approx(
                float(upper), rel=1e-3, abs=1e-9
            )
            if shape < 1000:
                lower = mpmath.log(mpmath.gammainc(shape, 0, x / 10, regularized=True))
                found = log_gamma_lower(at / 10, shape).item()
                assert found == pytest.approx(float(lower), rel=1e-3, abs=1e-9)


def test_both_tails_of_chi_squared_are_doubled() -> None:
    # With 2 degrees of freedom the upper tail is exp(-x / 2).
    x = torch.tensor([0.02, 2.0, 20.0], dtype=torch.float64)
    upper = (-x / 2).exp()
    expected = 2 * torch.minimum(upper, 1 - upper)
    torch.testing.assert_close(log_chi2_two_sided(x, 2).exp(), expected)


@pytest.mark.parametrize("entries_each", [5, 20, 500])
def test_equal_power_of_two_parts_is_the_f_test(entries_each: int) -> None:
    """The share of one of two is a beta variable, and the statistic grows away from a half."""
    for share in (0.52, 0.6, 0.7, 0.9):
        power = torch.tensor([share, 1 - share], dtype=torch.float64)
        count = torch.full((2,), float(entries_each), dtype=torch.float64)
        found = Spread.of(power, count).log_p().exp().item()
        half = entries_each / 2
        exact = 2 * float(mpmath.betainc(half, half, share, 1, regularized=True))
        assert found == pytest.approx(exact, rel=0.1, abs=1e-12)


def test_the_cumulants_of_equal_power_are_those_seen() -> None:
    generator = Generator().manual_seed(0)
    count = torch.tensor([1.0, 2.0, 5.0, 20.0], dtype=torch.float64)
    power = torch.stack(
        [
            torch.randn(40_000, int(n), generator=generator, dtype=torch.float64).square().sum(1)
            for n in count
        ],
        dim=1,
    )
    expected = Spread.of(power[0], count)
    relative = (power / count) / (power.sum(1, keepdim=True) / count.sum())
    seen = -(count * relative.log()).sum(1)
    centred = seen - seen.mean()
    assert seen.mean().item() == pytest.approx(expected.mean.item(), rel=0.02)
    assert centred.square().mean().item() == pytest.approx(expected.variance.item(), rel=0.04)
    assert (centred**3).mean().item() == pytest.approx(expected.third.item(), rel=0.12)


def test_scores_of_a_covariance_are_independent_and_normal() -> None:
    generator = Generator().manual_seed(0)
    scores = []
    for _ in range(2000):
        table = torch.randn(15, 3, generator=generator, dtype=torch.float64)
        scores.append(wishart_scores(table.T @ table, 15))
    table = torch.stack(scores)
    covariance = table.T @ table / len(table)
    torch.testing.assert_close(covariance, torch.eye(6, dtype=torch.float64), atol=0.13, rtol=0)
    assert table.mean(0).abs().max() < 4 / math.sqrt(2000)


def test_skewness_and_kurtosis_have_the_p_values_that_scipy_gives() -> None:
    """`scipy.stats.skewtest` and `kurtosistest` of normal quantiles, bent a little."""
    quantiles = torch.special.ndtri((torch.arange(1200, dtype=torch.float64) + 0.5) / 1200)
    shape = shape_of(quantiles + 0.03 * quantiles**2 + 0.01 * quantiles**3)
    assert shape.entries == 1200
    assert shape.skewness.item() == pytest.approx(0.181841198, rel=1e-6)
    assert shape.kurtosis.item() == pytest.approx(3.248911359, rel=1e-6)
    assert log_p_skewness(shape).exp().item() == pytest.approx(0.0102608752, rel=1e-6)
    assert log_p_kurtosis(shape).exp().item() == pytest.approx(0.0910790472, rel=1e-6)


def test_the_least_of_several_p_values_is_one_again() -> None:
    log_p = torch.tensor([0.2, 0.03, 0.9], dtype=torch.float64).log()
    assert log_least(log_p).exp().item() == pytest.approx(1 - 0.97**3)
    assert log_least(log_p[:1]).exp().item() == pytest.approx(0.2)
    far = torch.tensor([-2000.0, -3.0], dtype=torch.float64)
    assert log_least(far).item() == pytest.approx(-2000 + math.log(2))
    assert log_least(torch.zeros(3, dtype=torch.float64)).item() == 0
