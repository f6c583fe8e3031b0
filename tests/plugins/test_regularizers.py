"""The regularizers with a closed form; test_gaussianity.py has what the report finds."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from dno_builtin.regularizers._maps import maps
from dno_builtin.regularizers._tails import chi2_rate, chi2_score, log_two_sided, log_upper
from dno_builtin.regularizers._whiteness import independent_sums, plan
from dno_builtin.regularizers.gaussianity import Gaussianity
from dno_builtin.regularizers.norm import Norm
from dno_builtin.regularizers.whiteness import Whiteness
from torch import Generator, Tensor

from dno.plugin import BuildContext, ConfigError, Penalty, RegularizerConfig

Draws = tuple[tuple[int, ...], ...]

SMALL: Draws = ((2, 8, 8), (2, 8, 8))
EMOJI: Draws = ((24, 8, 8),) * 3
MIXED: Draws = ((300,), (3, 2, 9, 11), (40, 8), (3, 2, 9, 11), (5,))
EVERY: list[RegularizerConfig] = [Norm(), Whiteness(), Gaussianity()]


def entries(draws: Draws) -> int:
    return sum(math.prod(shape) for shape in draws)


def gaussian(rows: int, draws: Draws, seed: int = 0) -> Tensor:
    generator = Generator().manual_seed(seed)
    return torch.randn(rows, entries(draws), generator=generator, dtype=torch.float64)


def penalty(config: RegularizerConfig, noise_BN: Tensor, draws: Draws = ()) -> Penalty:
    context = BuildContext(device=torch.device("cpu"), dtype=torch.float32, draws=draws)
    found = config.build(context)(noise_BN, [Generator() for _ in noise_BN])
    assert isinstance(found, Penalty)
    return found


def told(found: Penalty) -> dict[str, Tensor]:
    """All that a regularizer tells besides its penalty, by name."""
    if found.log_p_B is None:
        return dict(found.figures)
    return {"log_p": found.log_p_B, **found.figures}


def log_p(config: RegularizerConfig, noise_BN: Tensor, draws: Draws) -> Tensor:
    log_p_B = penalty(config, noise_BN, draws).log_p_B
    assert log_p_B is not None
    return log_p_B


def assert_uniform(p: Tensor) -> None:
    """Shares below 5 % and 1 % within 3.3 standard errors, and Kolmogorov's distance under its 0.1
    % point.
    """
    p, n = p.double().sort().values, len(p)
    for level in (0.05, 0.01):
        error = math.sqrt(level * (1 - level) / n)
        assert abs((p < level).double().mean().item() - level) < 3.3 * error
    steps = torch.arange(1, n + 1, dtype=torch.float64) / n
    distance = torch.maximum(steps - p, p - (steps - 1 / n)).max().item()
    assert distance * math.sqrt(n) < 1.95


def smoothed(noise_BN: Tensor, draws: Draws, share: float) -> Tensor:
    """Each entry mixed with its neighbour to the right, of variance 1 again."""
    rows = []
    for row in noise_BN:
        parts = [
            part.view(shape)
            for part, shape in zip(row.split([math.prod(d) for d in draws]), draws, strict=True)
        ]
        rows.append(torch.cat([(part + share * part.roll(1, -1)).flatten() for part in parts]))
    return torch.stack(rows) / math.sqrt(1 + share**2)


# What all of them keep to.


@pytest.mark.parametrize("config", EVERY, ids=lambda config: type(config).__name__)
def test_a_row_is_judged_by_itself_to_the_same_bits(config: RegularizerConfig) -> None:
    noise_BN = (1.3 * gaussian(3, EMOJI)).float().requires_grad_()
    together = penalty(config, noise_BN, EMOJI)
    (gradient_BN,) = torch.autograd.grad(together.value_B.sum(), noise_BN)
    assert together.value_B.dtype == torch.float32
    for i in range(3):
        row = noise_BN[i : i + 1].detach().requires_grad_()
        alone = penalty(config, row, EMOJI)
        (gradient_1N,) = torch.autograd.grad(alone.value_B.sum(), row)
        assert torch.equal(alone.value_B[0], together.value_B[i])
        assert torch.equal(gradient_1N[0], gradient_BN[i])
        assert all(
            torch.equal(value[0], told(together)[name][i]) for name, value in told(alone).items()
        )


@pytest.mark.parametrize("config", EVERY, ids=lambda config: type(config).__name__)
def test_the_value_and_the_gradient_are_finite_without_any_noise(config: RegularizerConfig) -> None:
    noise_BN = torch.zeros(1, entries(EMOJI), requires_grad=True)
    found = penalty(config, noise_BN, EMOJI)
    (gradient_BN,) = torch.autograd.grad(found.value_B.sum(), noise_BN)
    assert found.value_B.isfinite().all()
    assert gradient_BN.isfinite().all()
    assert all(
        figure_B.isfinite().all() and not figure_B.requires_grad
        for figure_B in told(found).values()
    )


@pytest.mark.parametrize("bad", [math.nan, 1e200])
@pytest.mark.parametrize("config", EVERY, ids=lambda config: type(config).__name__)
def test_numbers_that_are_not_finite_or_too_large_are_told(
    config: RegularizerConfig, bad: float
) -> None:
    noise_BN = gaussian(2, EMOJI)
    noise_BN[1, 7] = bad
    found = penalty(config, noise_BN, EMOJI)
    known = torch.stack([found.value_B, *told(found).values()]).isfinite().all(0)
    assert known.tolist() == [True, bad == 1e200 and isinstance(config, Gaussianity)]


@pytest.mark.parametrize("draws", [SMALL, MIXED], ids=["alike", "mixed"])
@pytest.mark.parametrize("config", [Norm(), Whiteness()], ids=lambda config: type(config).__name__)
def test_the_gradient_is_that_of_the_value(config: RegularizerConfig, draws: Draws) -> None:
    noise_BN = smoothed(1.2 * gaussian(2, draws), draws, 0.5).requires_grad_()
    assert (penalty(config, noise_BN, draws).value_B > 1).all()
    direction = gaussian(2, draws, seed=1)
    # Along two lines, since all of the entries one by one would take long.
    for line in (direction, noise_BN.detach()):
        assert torch.autograd.gradcheck(
            lambda step, line=line: penalty(config, noise_BN + step * line, draws).value_B,
            torch.zeros((), dtype=torch.float64, requires_grad=True),
        )
    assert torch.autograd.gradcheck(
        lambda z: penalty(config, z, ((2, 8, 8),)).value_B,
        noise_BN[:, :128].detach().requires_grad_(),
    )


@pytest.mark.parametrize("config", EVERY, ids=lambda config: type(config).__name__)
def test_noise_in_float32_is_summed_in_float64(config: RegularizerConfig) -> None:
    noise_BN = (1.02 * gaussian(1, ((400_000,),))).float()
    single, double = penalty(config, noise_BN), penalty(config, noise_BN.double())
    torch.testing.assert_close(single.value_B.double(), double.value_B, rtol=1e-6, atol=0)


def test_draws_are_cut_into_maps_by_shape() -> None:
    noise_N = torch.arange(entries(MIXED))
    line, video, table, point = maps(noise_N, MIXED)
    assert [tuple(group.shape) for group in (line, video, table, point)] == [
        (1, 1, 1, 300), (2, 6, 9, 11), (1, 1, 40, 8), (1, 1, 1, 5),
    ]  # fmt: skip
    assert line[0, 0, 0, 0] == 0
    assert video[1, 0, 0, 0] == 300 + 3 * 2 * 9 * 11 + 320
    assert point[0, 0, 0].tolist() == noise_N[-5:].tolist()
    assert maps(noise_N, ())[0].shape == (1, 1, 1, len(noise_N))


# Tails.


@pytest.mark.parametrize("dof", [2, 10, 100, 80_000])
def test_chi_squared_tails_are_the_exact_ones_near_the_middle(dof: int) -> None:
    # The oracle is mpmath's incomplete gamma function.
    for deviations in (-3.0, -1.0, 0.0, 1.0, 3.0, 6.0):
        x = dof + deviations * math.sqrt(2 * dof)
        if x <= 0:
            continue
        upper = mpmath.log(
            mpmath.gammainc(mpmath.mpf(dof) / 2, mpmath.mpf(x) / 2, regularized=True)
        )
        found = log_upper(chi2_score(torch.tensor(x, dtype=torch.float64), dof)).item()
        assert found == pytest.approx(float(upper), abs=0.012, rel=0.03 if dof <= 10 else 0.01)


def test_log_p_values_far_out_are_finite_and_about_right() -> None:
    dof, x = 80_000, torch.tensor([0.5, 0.9, 1.1, 2.0], dtype=torch.float64) * 80_000
    # Laplace's method: the log of a chi-squared tail is minus the rate, and terms of the order of
    # log x.
    found, rate = log_two_sided(chi2_score(x, dof)), chi2_rate(x, dof)
    torch.testing.assert_close(found, -rate, rtol=0.05, atol=10)
    assert found[0] < -2000
    assert log_two_sided(torch.zeros(1)).item() == pytest.approx(0, abs=1e-6)


# Norm.


@pytest.mark.parametrize("n", [1, 2, 7, 3000])
def test_the_norm_penalty_is_the_log_density_under_its_maximum(n: int) -> None:
    radius = math.sqrt(n) * torch.tensor([0.3, 0.9, 1.0, 1.4], dtype=torch.float64)
    noise_BN = torch.nn.functional.normalize(gaussian(4, ((n,),)), dim=1) * radius[:, None]

    def log_density(r: Tensor) -> Tensor:
        return (n - 1) * r.log() - r.square() / 2

    # At the mode of a chi variable with 1 degree of freedom, 0, the log is multiplied by 0.
    top = (
        log_density(torch.tensor(math.sqrt(n - 1), dtype=torch.float64))
        if n > 1
        else torch.zeros(())
    )
    torch.testing.assert_close(
        penalty(Norm(), noise_BN).value_B, top - log_density(radius), rtol=1e-9, atol=1e-9
    )


def test_the_norm_penalty_of_gaussian_noise_is_small_and_its_p_value_uniform() -> None:
    found = penalty(Norm(), gaussian(2000, ((600,),)))
    # Half a chi-squared variable with 1 degree of freedom: mean 0.5, variance 0.5.
    assert abs(found.value_B.mean().item() - 0.5) < 3.3 * math.sqrt(0.5 / 2000)
    assert found.value_B.min() >= 0
    assert_uniform(told(found)["log_p"].exp())


@pytest.mark.parametrize("scale", [0.97, 1.03])
def test_noise_of_a_wrong_length_is_penalised_and_pushed_back(scale: float) -> None:
    noise_BN = (
        scale * gaussian(1, EMOJI) / gaussian(1, EMOJI).square().mean().sqrt()
    ).requires_grad_()
    found = penalty(Norm(), noise_BN)
    (gradient_BN,) = torch.autograd.grad(found.value_B.sum(), noise_BN)
    assert found.value_B.item() == pytest.approx(entries(EMOJI) * (scale - 1) ** 2, rel=0.05)
    assert told(found)["log_p"] < -4
    assert ((gradient_BN * noise_BN).sum() > 0) == (scale > 1)


# Whiteness.


@pytest.mark.parametrize(
    ("shape", "count"), [((2, 16, 16), 8), ((1, 1, 512), 3), ((1, 64, 4), 8)], ids=str
)
def test_sums_are_independent_and_of_variance_one_under_white_noise(
    shape: tuple[int, int, int], count: int
) -> None:
    """Exactly: a quadratic form z' A z has covariance 2 tr(A B) with z' B z, and mean tr(A)."""
    n = math.prod(shape)
    units = torch.eye(n, dtype=torch.float64, requires_grad=True)
    sums = independent_sums(units.view(n, *shape))
    assert sums.shape == (n, count)
    # The gradient at each unit vector is a row of A + A'.
    forms = torch.stack(
        [
            torch.autograd.grad(sums[:, i].sum(), units, retain_graph=True)[0] / 2
            for i in range(count)
        ]
    )
    covariance = 2 * forms.flatten(1) @ forms.flatten(1).T
    torch.testing.assert_close(covariance, torch.eye(count, dtype=torch.float64), atol=1e-9, rtol=0)
    assert forms.diagonal(dim1=1, dim2=2).sum(1).abs().max() < 1e-9


def test_scales_are_halved_while_sides_and_entries_are_enough() -> None:
    assert [(s.height, s.width, len(s.shifts)) for s in plan(4, 64, 64).scales] == [
        (64, 64, 4), (32, 32, 4), (16, 16, 4), (8, 8, 4),
    ]  # fmt: skip
    assert [(s.height, s.width, len(s.shifts)) for s in plan(64, 3, 19).scales] == [
        (3, 19, 1),
        (3, 9, 1),
        (3, 4, 1),
    ]
    assert plan(1, 8, 8).scales == ()


@pytest.mark.slow
@pytest.mark.parametrize("draws", [((4, 16, 16),) * 3, MIXED], ids=["alike", "mixed"])
def test_the_whiteness_of_gaussian_noise_has_a_uniform_p_value(draws: Draws) -> None:
    found = penalty(Whiteness(), gaussian(2000, draws, seed=1), draws)
    assert_uniform(told(found)["log_p"].exp())
    assert found.value_B.min() >= 0
    assert 0.15 < found.value_B.mean() < 0.3


def upsampled(noise_BN: Tensor, factor: int) -> Tensor:
    """Maps of 4 x 32 x 32 whose blocks of factor x factor entries are alike."""
    coarse = noise_BN.view(-1, 4, 32, 32)[..., ::factor, ::factor]
    return coarse.repeat_interleave(factor, 2).repeat_interleave(factor, 3).flatten(1)


@pytest.mark.parametrize("factor", [2, 4])
def test_correlation_between_neighbours_is_penalised_without_bound(factor: int) -> None:
    draws = ((4, 32, 32),)
    noise_BN = gaussian(1, draws)
    shares = torch.linspace(0, 1, 6).double()
    mixed = torch.cat(
        [
            math.sqrt(1 - s) * noise_BN + math.sqrt(s) * upsampled(gaussian(1, draws, 1), factor)
            for s in shares
        ]
    )
    value_B = penalty(Whiteness(), mixed, draws).value_B
    assert (value_B.diff() > 0).all()
    assert value_B[-1] > 1000
    assert penalty(Whiteness(), 3 * mixed[-1:], draws).value_B > 50 * value_B[-1]
    assert log_p(Whiteness(), mixed, draws)[-1] < -500


def test_correlations_that_only_a_coarse_scale_shows_are_found() -> None:
    draws = ((4, 32, 32),)
    hidden = gaussian(1, draws) + 0.5 * upsampled(gaussian(1, draws, 2), 8)
    found = log_p(Whiteness(), hidden / hidden.std(), draws)
    lines = ((4 * 32 * 32,),)
    assert found < -20
    assert log_p(Whiteness(), gaussian(1, draws), lines) > -4


def test_opposite_neighbours_are_as_unlikely_as_equal_ones() -> None:
    noise_BN = gaussian(2, EMOJI)
    assert (log_p(Whiteness(), smoothed(noise_BN, EMOJI, -0.3), EMOJI) < -20).all()
    assert (log_p(Whiteness(), smoothed(noise_BN, EMOJI, 0.3), EMOJI) < -20).all()


def test_nothing_pulls_at_white_noise() -> None:
    noise_BN = (0.9 * gaussian(1, EMOJI)).requires_grad_()
    found = penalty(Whiteness(), noise_BN, EMOJI)
    (gradient_BN,) = torch.autograd.grad(found.value_B.sum(), noise_BN)
    assert found.value_B.item() == 0
    assert gradient_BN.count_nonzero() == 0


def test_draws_without_neighbours_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"at least 128 entries.* but these are 64, 64x3x3; choose another"
    ):
        penalty(Whiteness(), torch.zeros(1, 704), ((64,), (64, 3, 3), (64,)))
    with pytest.raises(ConfigError, match="needs 128 entries, but a sample has 100"):
        penalty(Whiteness(), torch.zeros(1, 100))
