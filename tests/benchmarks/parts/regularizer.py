"""The published penalty in closed form, beside autograd through its permutations; the shell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

import torch
from dno_builtin.constraints.shell import Shell
from dno_builtin.regularizers._permutation import draw_shuffle
from dno_builtin.regularizers.permutation import Permutation
from measuring import Figure, Size, exact, in_turns, middle, ratios
from torch import Tensor

from dno.plugin import BuildContext, Penalty, gaussian_noise

PERMUTATIONS = 100
LENGTH = 4
"""Entries of a vector, k."""


def gathers(noise: Tensor, tables: list[Tensor]) -> Tensor:
    """-R of one sample's noise, term by term."""
    total = noise.new_zeros(())
    for table in tables:
        rows = noise[table]
        m, k = rows.shape
        mean = rows.mean(0).norm()
        spectral = torch.linalg.matrix_norm(rows.T @ rows / m - torch.eye(k).to(noise), ord=2)
        excess = ((1 + spectral).sqrt() - 1 - math.sqrt(k / m)).clamp(min=0)
        total = total - (math.log(2) - m * mean**2 / (2 * k)).clamp(max=0)
        total = total - (math.log(2) - m * excess**2 / 2).clamp(max=0)
    return total / len(tables)


def closed(noise: Tensor, permutations: int, seed: int) -> Tensor:
    """The same, as the regularizer finds it."""
    config = Permutation(permutations=permutations, vector_length=LENGTH, unpermuted=False)
    regularizer = config.build(BuildContext(noise.device, noise.dtype))
    found = regularizer(noise[None], [torch.Generator().manual_seed(seed)])
    assert isinstance(found, Penalty)
    return found.value_B.sum()


def difference(noise: Tensor) -> float:
    """How far both are apart, relatively, on the same few permutations in float64."""
    drawn = draw_shuffle(len(noise), LENGTH, 5, torch.Generator().manual_seed(0))
    expected = gathers(noise.double(), list(drawn.tables()))
    return abs(closed(noise.double(), 5, seed=0).item() / expected.item() - 1)


def measure(size: Size) -> Iterator[Figure]:
    """Times of each way, and how far their values are apart."""
    count = size.entries
    # Off the shell, so that no way is spared the gradient.
    noise = 1.05 * torch.randn(count, generator=torch.Generator().manual_seed(0))
    noise.requires_grad_()

    def in_closed_form() -> None:
        torch.autograd.grad(closed(noise, PERMUTATIONS, seed=0), noise)

    def through_gathers() -> None:
        drawn = torch.Generator().manual_seed(0)
        orders = [torch.randperm(count, generator=drawn) for _ in range(PERMUTATIONS)]
        tables = [order[: count // LENGTH * LENGTH].view(-1, LENGTH) for order in orders]
        torch.autograd.grad(gathers(noise, tables), noise)

    # 51 draws, as of 50 steps; the shell looks at each.
    draws = ((count // 51,),) * 51
    start_BN = gaussian_noise(draws, [0])
    shell = Shell().build(BuildContext(torch.device("cpu"), torch.float32, draws=draws))
    kept = shell.init(start_BN)
    direction_BN = torch.nn.functional.normalize(gaussian_noise(draws, [1]))

    def back_on_the_shell() -> None:
        shell.retract(start_BN + 5 * direction_BN, kept)

    jobs = {"closed": in_closed_form, "shell": back_on_the_shell}
    quick = in_turns(jobs, size.rounds)
    slow = in_turns({"gathers": through_gathers}, 2)
    entries = f"{count:,} entries"
    yield middle("regularizer.closed", f"penalty and gradient, {entries}", quick["closed"], "CPU s")
    middle_closed = statistics.median(quick["closed"])
    yield middle(
        "regularizer.gathers",
        f"the same through {PERMUTATIONS} gathers",
        [seconds / middle_closed for seconds in slow["gathers"]],
        "times as long",
    )
    yield middle(
        "regularizer.shell",
        "putting noise back on the shell",
        ratios(quick["shell"], quick["closed"]),
        "penalties",
    )
    apart = difference(noise.detach())
    agrees = float(apart < 1e-9)
    yield exact("regularizer.agrees", "both ways give the same value", agrees, "(1: yes)")
