import math
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from dno_builtin.regularizers._permutation import draw_shuffle
from dno_builtin.regularizers.permutation import Permutation
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from dno.plugin import BuildContext, ConfigError, Penalty

CPU = BuildContext(device=torch.device("cpu"), dtype=torch.float32)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def penalty(noise: Tensor, seeds: list[int], **options: object) -> Penalty:
    found = Permutation.model_validate(options).build(CPU)(noise, [seeded(seed) for seed in seeds])
    assert isinstance(found, Penalty)
    assert found.log_p_B is not None
    return found


def told(found: Penalty) -> dict[str, Tensor]:
    """All that a regularizer tells besides its penalty, by name."""
    if found.log_p_B is None:
        return dict(found.figures)
    return {"log_p": found.log_p_B, **found.figures}


def log_probs(table: Tensor) -> tuple[Tensor, Tensor]:
    """log p1 and log p2 of one m x k table, as the paper writes them."""
    m, k = table.shape
    mean = table.mean(0).norm()
    spectral = torch.linalg.matrix_norm(
        table.T @ table / m - torch.eye(k, dtype=table.dtype), ord=2
    )
    excess = ((1 + spectral).sqrt() - 1 - math.sqrt(k / m)).clamp(min=0)
    zero = torch.zeros((), dtype=table.dtype)
    return (
        torch.minimum(zero, math.log(2) - m * mean**2 / (2 * k)),
        torch.minimum(zero, math.log(2) - m * excess**2 / 2),
    )


def oracle(noise: Tensor, tables: Tensor, unpermuted: bool) -> tuple[Tensor, dict[str, float]]:
    """-R and the figures, with a plain gather for each permutation."""
    k = tables.shape[2]
    each = [log_probs(noise[table]) for table in tables]
    value = sum(one + two for one, two in each) / len(each)
    if unpermuted:
        each.append(log_probs(noise[: len(noise) // k * k].view(-1, k)))
        value = value + each[-1][0] + each[-1][1]
    least = [min(pair[i].item() for pair in each) for i in (0, 1)]
    return -value, {"log_p": min(least), "log_p1": least[0], "log_p2": least[1]}


@dataclass(frozen=True)
class Case:
    id: str
    entries: int
    k: int = 4
    permutations: int = 7
    unpermuted: bool = True
    scale: float = 1.6
    shift: float = 0.4

    def options(self) -> dict[str, object]:
        return {
            "permutations": self.permutations,
            "vector_length": self.k,
            "unpermuted": self.unpermuted,
        }


CASES = [
    Case("chunks divide", 1024),
    Case("paper's b", 2048, permutations=100),
    Case("entries and rows left over", 4 * 1021 + 3),
    Case("single entries as chunks", 4 * 50 + 1),
    Case("as many entries as one vector", 4, scale=6),
    Case("one vector and a half", 6, scale=6),
    Case("vectors of one", 1301, k=1),
    Case("vectors of sixteen", 3001, k=16),
    Case("longest vectors", 1300, k=64),
    Case("without own order", 999, unpermuted=False),
    Case("too small", 1024, scale=0.5, shift=0),
    Case("only the mean off", 40_000, scale=1, shift=0.05),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_value_gradient_and_figures_equal_autograd_through_gathers(case: Case) -> None:
    noise = (gaussian(1, case.entries, seed=1) * case.scale + case.shift).requires_grad_()
    found = penalty(noise, [5], **case.options())
    (gradient,) = torch.autograd.grad(3 * found.value_B.sum(), noise)

    tables = draw_shuffle(case.entries, case.k, case.permutations, seeded(5)).tables()
    value, figures = oracle(noise[0], tables, case.unpermuted)
    (expected,) = torch.autograd.grad(3 * value, noise)
    assert value.item() > 0.1
    assert expected.abs().max() > 0
    torch.testing.assert_close(found.value_B, value[None], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)
    assert {name: value.item() for name, value in told(found).items()} == pytest.approx(
        figures, rel=1e-10
    )


def test_float32_noise_loses_no_more_than_its_own_rounding() -> None:
    exact = (1.02 * gaussian(1, 20_000)).float()
    single, double = exact.clone().requires_grad_(), exact.double().requires_grad_()
    found, expected = penalty(single, [0]), penalty(double, [0])
    assert found.value_B.dtype == found.log_p_B.dtype == torch.float32
    torch.testing.assert_close(found.value_B, expected.value_B.float(), rtol=1e-6, atol=0)
    found.value_B.sum().backward()
    expected.value_B.sum().backward()
    assert single.grad is not None
    assert double.grad is not None
    torch.testing.assert_close(single.grad, double.grad.float(), rtol=1e-6, atol=1e-9)


def test_each_permutation_alone_is_uniform() -> None:
    # 4 entries as 2 vectors of 2 have 24 orders; chunks of 2 entries, so that permutations share
    # them.
    draws = 6000
    seen: list[Counter[tuple[int, ...]]] = [Counter(), Counter()]
    generator = seeded(0)
    for _ in range(draws):
        tables = draw_shuffle(4, 2, 2, generator, chunks=1).tables()
        for counter, table in zip(seen, tables, strict=True):
            counter[tuple(table.flatten().tolist())] += 1
    for counter in seen:
        assert len(counter) == 24
        chi_square = sum((count - draws / 24) ** 2 for count in counter.values()) / (draws / 24)
        assert chi_square < 49.7  # The 0.1 % point for 23 degrees of freedom.


def test_every_entry_is_as_likely_in_every_place_leftovers_too() -> None:
    # 11 entries: 5 vectors of 2 in chunks of 2 with one row over, and one entry left out.
    draws, n, m, k = 4000, 11, 5, 2
    counts = torch.zeros(3, m * k, n)
    generator = seeded(1)
    for _ in range(draws):
        shuffle = draw_shuffle(n, k, 3, generator, chunks=2)
        assert shuffle.length == 2
        counts += torch.nn.functional.one_hot(shuffle.tables().flatten(1), n)
    expected = draws / n
    score = (counts - expected) / math.sqrt(expected * (1 - 1 / n))
    assert score.abs().max() < 4.5  # 330 counts, each about N(0, 1).


@pytest.mark.parametrize("entries", [4, 11, 500, 4 * 1021 + 3])
def test_every_table_holds_different_entries(entries: int) -> None:
    tables = draw_shuffle(entries, 4, 20, seeded(2)).tables().flatten(1)
    assert tables.shape == (20, entries // 4 * 4)
    assert all(len(set(table.tolist())) == len(table) for table in tables)


def test_permutations_that_share_work_average_as_independent_ones_do() -> None:
    noise, draws = 1.03 * gaussian(8200, seed=3), 150
    generator, tables = seeded(4), torch.empty(30, 2050, 4, dtype=torch.long)
    shared, independent = [], []
    for seed in range(draws):
        found = penalty(noise[None], [seed], permutations=30, unpermuted=False)
        shared.append(found.value_B.item())
        for table in tables:
            table.copy_(torch.randperm(8200, generator=generator).view(-1, 4))
        rows = noise[tables]
        mean, second = rows.mean(1), rows.mT @ rows / 2050
        eigen = torch.linalg.eigvalsh(second - torch.eye(4, dtype=torch.float64)).abs().amax(1)
        one = math.log(2) - 2050 * mean.square().sum(1) / 8
        two = (
            math.log(2)
            - 2050 * ((1 + eigen).sqrt() - 1 - math.sqrt(4 / 2050)).clamp(min=0) ** 2 / 2
        )
        independent.append(-(one.clamp(max=0) + two.clamp(max=0)).mean().item())
    a, b = torch.tensor(shared), torch.tensor(independent)
    error = math.sqrt((a.var().item() + b.var().item()) / draws)
    assert abs(a.mean() - b.mean()).item() < 3.5 * error
    # Sharing costs a little: about 1.1 here. The 0.2 % points of two variances of 150 values each
    # lie 1.6 apart.
    assert 0.7 < (a.var() / b.var()).item() < 1.75


def test_gaussian_noise_is_as_probable_as_under_independent_permutations() -> None:
    draws, noise, generator = 40, gaussian(40, 4096, seed=6), seeded(7)
    found = penalty(noise.float(), list(range(draws)))
    log_p, plain = found.log_p_B.double(), []
    for row in noise:
        tables = torch.stack([torch.randperm(4096, generator=generator) for _ in range(100)]).view(
            100, -1, 4
        )
        plain.append(oracle(row, tables, unpermuted=True)[1]["log_p"])
    expected = torch.tensor(plain, dtype=torch.float64)
    error = math.sqrt((log_p.var().item() + expected.var().item()) / draws)
    assert abs(log_p.mean() - expected.mean()).item() < 3.5 * error
    assert -1.3 < log_p.mean() < -0.7
    assert log_p.min() > -3
    assert found.value_B.mean() < 0.5


def test_noise_off_the_shell_is_not() -> None:
    noise = gaussian(1, 835_584, seed=7).float()
    moved = {"as drawn": noise, "longer": 1.05 * noise, "shifted": noise + 0.01}
    log_p = {name: penalty(moved[name], [0], permutations=20).log_p_B.item() for name in moved}
    assert log_p["as drawn"] > -2
    assert log_p["longer"] < -100
    assert log_p["shifted"] < -5


def test_own_order_sees_neighbours_that_move_as_one() -> None:
    # Every entry is N(0, 1), but each four of them are the same.
    noise = gaussian(1, 2000, seed=8).repeat_interleave(4, dim=1)
    assert penalty(noise, [0]).log_p_B < -100
    assert penalty(noise, [0], unpermuted=False).log_p_B > -3


def test_nothing_pulls_at_typical_noise() -> None:
    noise = gaussian(1, 4096, seed=9).requires_grad_()
    found = penalty(noise, [2], permutations=1)
    found.value_B.sum().backward()
    assert noise.grad is not None
    assert found.value_B.item() == found.log_p_B.item() == 0
    assert noise.grad.count_nonzero() == 0


@given(
    entries=st.integers(8, 700),
    seeds=st.lists(st.integers(0, 2**40), min_size=2, max_size=3),
    scale=st.floats(0.2, 3),
)
def test_a_row_does_not_depend_on_its_neighbours(
    entries: int, seeds: list[int], scale: float
) -> None:
    noise = (scale * gaussian(len(seeds), entries, seed=seeds[0])).float().requires_grad_()
    batch = penalty(noise, seeds, permutations=5)
    (batch_grad,) = torch.autograd.grad(batch.value_B.sum(), noise)
    for row, seed in enumerate(seeds):
        alone = noise[row : row + 1].detach().requires_grad_()
        single = penalty(alone, [seed], permutations=5)
        (single_grad,) = torch.autograd.grad(single.value_B.sum(), alone)
        assert batch.value_B[row] == single.value_B[0]
        assert torch.equal(batch_grad[row], single_grad[0])
        assert all(told(batch)[name][row] == value[0] for name, value in told(single).items())


@given(seed=st.integers(0, 2**40), start=st.floats(1.0, 2), factor=st.floats(1, 3))
def test_more_of_too_much_is_never_more_probable(seed: int, start: float, factor: float) -> None:
    # From where every direction has too much variance: short of that, growing is a return to the
    # shell.
    table = gaussian(200, 4, seed=seed)
    table -= table.mean(0)
    noise = (table @ torch.linalg.inv(torch.linalg.cholesky(table.T @ table / 200)).T).flatten()[
        None
    ] * start
    for options in ({"unpermuted": True}, {"unpermuted": False}):
        before = penalty(1.5 * noise, [seed], permutations=5, **options)
        after = penalty(1.5 * factor * noise, [seed], permutations=5, **options)
        assert after.log_p_B <= before.log_p_B + 1e-9
        assert after.value_B >= before.value_B - 1e-9
        assert before.value_B >= 0


def test_no_gradient_is_worked_out_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = (2 * gaussian(2, 400)).requires_grad_()
    wanted = penalty(noise, [0, 1])
    assert wanted.value_B.requires_grad
    assert not any(figure_B.requires_grad for figure_B in told(wanted).values())

    def no_gradient(*args: object) -> None:
        raise AssertionError("a gradient was worked out")

    monkeypatch.setattr(torch, "addmm", no_gradient)
    with pytest.raises(AssertionError, match="was worked out"):
        penalty(noise, [0, 1])
    with torch.no_grad():
        assert torch.equal(penalty(noise, [0, 1]).value_B, wanted.value_B)
    assert torch.equal(penalty(noise.detach(), [0, 1]).value_B, wanted.value_B)


def test_only_the_given_generators_are_drawn_from() -> None:
    before = torch.random.get_rng_state()
    first = penalty(2 * gaussian(1, 400), [0])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.value_B, penalty(2 * gaussian(1, 400), [0]).value_B)
    assert not torch.equal(first.value_B, penalty(2 * gaussian(1, 400), [1]).value_B)


def test_noise_shorter_than_a_vector_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"vectors of 4 entries, but a sample has 3; choose a shorter"
    ):
        penalty(gaussian(1, 3), [0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200])
def test_a_number_too_large_is_reported_as_nan(bad: float) -> None:
    noise = gaussian(2, 400)
    noise[1, 17] = bad
    noise.requires_grad_()
    found = penalty(noise, [0, 1])
    (gradient,) = torch.autograd.grad(found.value_B.sum(), noise)
    assert found.value_B.isnan().tolist() == [False, True]
    assert found.log_p_B.isnan().tolist() == [False, True]
    assert gradient.isnan().any(dim=1).tolist() == [False, True]
