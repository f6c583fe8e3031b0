"""The Gaussian shell: what it keeps, what it leaves free, and that N(0, I) stays N(0, I).

The statistics here are computed by other ways than the constraint's own: complex FFTs over all
frequencies, and SciPy's formulas written out.
"""

from __future__ import annotations

import math

import pytest
import torch
from dno_builtin._blocks import Layout
from dno_builtin.constraints._shell import _least_map
from dno_builtin.constraints.shell import Shell
from dno_builtin.optimizers.ascent import Ascent
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor

import dno
from dno.core.function import FunctionSampler
from dno.plugin import BuildContext, ConfigError, Constraint, gaussian_noise

Draws = tuple[tuple[int, ...], ...]

NOISES: dict[str, Draws] = {
    "twenty latents": ((4, 8, 8),) * 20,
    "one latent": ((4, 16, 16),),
    "grey": ((1, 8, 8),) * 12,
    "colour": ((3, 16, 16),) * 5,
    "sixteen channels": ((16, 8, 8),) * 4,
    "twenty-four channels": ((24, 6, 6),) * 3,
    "odd sides": ((4, 7, 9),) * 6,
    "sequences": ((8, 50),) * 3,
    "a line": ((200,),),
    "mixed": ((4, 8, 8), (4, 8, 8), (3, 5, 7), (4, 8, 8), (90,), (4, 8, 8)),
}


def built(draws: Draws, **options: float) -> Constraint:
    context = BuildContext(device=torch.device("cpu"), dtype=torch.float32, draws=draws)
    return Shell(**options).build(context)


def shape_of(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) == 1:
        return 1, 1, shape[0]
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    return shape


def maps_of(noise_N: Tensor, draws: Draws) -> list[Tensor]:
    """The draws of each shape, in float64."""
    found: dict[tuple[int, int, int], list[Tensor]] = {}
    parts = torch.split(noise_N.double(), [math.prod(shape) for shape in draws])
    for shape, part in zip(draws, parts, strict=True):
        found.setdefault(shape_of(shape), []).append(part.view(shape_of(shape)))
    return [torch.stack(group) for group in found.values()]


def dct_by_fft(maps: Tensor) -> Tensor:
    """Orthonormal DCT-II over the first axis, by an FFT of the draws and their mirror images."""
    count = len(maps)
    mirrored = torch.fft.fft(torch.cat([maps, maps.flip(0)]), dim=0)[:count]
    frequency = torch.arange(count, dtype=torch.float64).view(-1, 1, 1, 1)
    turned = (mirrored * torch.exp(-0.5j * math.pi * frequency / count)).real
    scale = torch.full((count, 1, 1, 1), math.sqrt(1 / (2 * count)), dtype=torch.float64)
    scale[0] = math.sqrt(1 / (4 * count))
    return turned * scale


def kept(noise_N: Tensor, draws: Draws) -> dict[str, Tensor]:
    """What the shell keeps, each in units in which 1e-3 is little: sigmas, or parts of a whole."""
    amplitudes = []
    norms = []
    covariances = []
    for maps in maps_of(noise_N, draws):
        count, channels, height, width = maps.shape
        spectrum = torch.fft.fft2(dct_by_fft(maps), norm="ortho")
        energy = spectrum.abs().square().sum(1)
        amplitudes.append(energy.sqrt().flatten())
        norms.append(maps.flatten(1).norm(dim=1) / math.sqrt(maps[0].numel()))
        entries = count * height * width
        if entries >= 4 * channels:
            table = maps.transpose(0, 1).flatten(1)
            covariance = table @ table.T
            covariances.append((covariance / covariance.norm()).flatten())
            norms.append(covariance.norm()[None] / noise_N.numel())
    return {
        "energies": torch.cat(amplitudes),
        "norms": torch.cat(norms),
        "covariances": torch.cat([*covariances, torch.zeros(1)]),
        "norm": noise_N.double().norm()[None] / math.sqrt(noise_N.numel()),
    }


def worst(noise_BN: Tensor, start_BN: Tensor, draws: Draws) -> dict[str, float]:
    """The greatest difference in anything kept, over a batch."""
    found: dict[str, float] = {}
    for noise_N, start_N in zip(noise_BN, start_BN, strict=True):
        before = kept(start_N, draws)
        for name, values in kept(noise_N, draws).items():
            off = (values - before[name]).abs().max().item()
            found[name] = max(found.get(name, 0.0), off)
    return found


def gradients(kind: str, noise: Tensor, step: int) -> Tensor:
    entries = noise.shape[1]
    if kind == "random":
        return torch.randn(noise.shape, generator=torch.Generator().manual_seed(step))
    if kind == "constant":
        return torch.ones_like(noise)
    if kind == "the noise itself":
        return noise
    if kind == "against the noise":
        return -noise
    if kind == "one entry":
        return torch.eye(entries)[entries // 3].expand_as(noise)
    if kind == "kurtosis":
        return noise**3
    assert kind == "low frequency"
    return torch.linspace(0, 2 * math.pi, entries).cos().expand_as(noise)


KINDS = [
    "random",
    "constant",
    "the noise itself",
    "against the noise",
    "one entry",
    "kurtosis",
    "low frequency",
]


CASES = [
    *(pytest.param(NOISES["twenty latents"], kind, id=kind) for kind in KINDS),
    *(pytest.param(draws, "one entry", id=name) for name, draws in list(NOISES.items())[1:]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("draws", "kind"), CASES)
def test_what_is_kept_stays_after_a_hundred_steps(draws, kind):
    start = gaussian_noise(draws, [11])
    shell = built(draws)
    state = shell.init(start)
    noise = start
    for step in range(100):
        grad = gradients(kind, noise, step)
        noise = shell.retract(noise + 5 * grad / grad.norm(dim=1, keepdim=True), state)
    off = worst(noise, start, draws)
    assert max(off.values()) < 1e-3, off
    moved = (noise - start).norm()
    assert moved <= 25 * 1.011
    if kind == "random":
        assert moved > 5


@given(
    channels=st.integers(1, 6),
    height=st.integers(1, 9),
    width=st.integers(2, 9),
    count=st.integers(1, 7),
    seed=st.integers(0, 2**31),
    length=st.floats(0.01, 60),
)
def test_energies_and_norm_stay_whatever_the_shape(channels, height, width, count, seed, length):
    # Else each frequency has one entry, and none can turn.
    assume(channels > 1 or max(height, width) > 2)
    draws = ((channels, height, width),) * count
    start, other = gaussian_noise(draws, [seed, seed + 1]).split(1)
    shell = built(draws, reach=0)
    noise = shell.retract(start + length * other / other.norm(), shell.init(start))
    off = worst(noise, start, draws)
    assert max(off["energies"], off["norm"]) < 1e-3, off


@pytest.mark.parametrize("draws", NOISES.values(), ids=NOISES.keys())
def test_its_own_start_stays(draws):
    start = gaussian_noise(draws, [1, 2])
    shell = built(draws)
    back = shell.retract(start, shell.init(start))
    torch.testing.assert_close(back, start, rtol=0, atol=1e-5)


@pytest.mark.parametrize("draws", NOISES.values(), ids=NOISES.keys())
def test_a_batch_of_two_is_two_of_one_to_the_bit(draws):
    start = gaussian_noise(draws, [1, 2])
    away = start + 0.3 * gaussian_noise(draws, [3, 4])
    shell = built(draws)
    both = shell.retract(away, shell.init(start))
    for i in range(2):
        alone = shell.retract(away[i : i + 1], shell.init(start[i : i + 1]))
        assert torch.equal(alone[0], both[i])


@pytest.mark.parametrize("reach", [0.5, 3.0, 12.0])
@pytest.mark.parametrize("draws", NOISES.values(), ids=NOISES.keys())
def test_reach_is_kept_however_far_noise_went(draws, reach):
    start = gaussian_noise(draws, [5, 6])
    shell = built(draws, reach=reach)
    state = shell.init(start)
    for length in (0.5 * reach, 2 * reach, 500.0):
        other = gaussian_noise(draws, [7, 8])
        away = start + length * other / other.norm(dim=1, keepdim=True)
        distance = (shell.retract(away, state) - start).norm(dim=1)
        assert (distance <= 1.011 * reach).all()


@pytest.mark.parametrize("draws", NOISES.values(), ids=NOISES.keys())
def test_reach_is_kept_where_the_spheres_bulge(draws):
    """Half way to another point of the spheres is inside of them; put back, it is further away."""
    start = gaussian_noise(draws, [5])
    free = built(draws, reach=0)
    other = free.retract(start + 100 * gaussian_noise(draws, [6]), free.init(start))
    reach = 0.5 * (other - start).norm().item()

    half_way = free.retract((start + other) / 2, free.init(start))
    assert (half_way - start).norm() > 1.03 * reach

    shell = built(draws, reach=reach)
    distance = (shell.retract(other, shell.init(start)) - start).norm()
    assert 0.5 * reach < distance <= 1.011 * reach


def test_without_a_reach_noise_goes_on():
    draws = NOISES["twenty latents"]
    start = gaussian_noise(draws, [5])
    shell = built(draws, reach=0)
    away = start + 100 * gaussian_noise(draws, [6])
    distance = (shell.retract(away, shell.init(start)) - start).norm()
    # Noise with the start's energies and directions of its own: two Gaussian draws are sqrt(2 N)
    # apart.
    assert distance == pytest.approx(math.sqrt(2 * start.numel()), rel=0.1)


def test_draws_that_move_together_are_undone():
    """A move that all draws share has one temporal frequency, whose energy is kept."""
    draws = ((4, 8, 8),) * 30
    start = gaussian_noise(draws, [3])
    shared = gaussian_noise(draws[:1], [4]).repeat(1, 30)
    away = start + 20 * shared / shared.norm()
    back = shell_of(draws, start, away)

    def together(noise: Tensor) -> float:
        """|sum over draws|^2 / K, chi-squared over Gaussian noise."""
        return (noise.view(30, -1).sum(0).square().sum() / 30).item()

    # 256 degrees of freedom: a standard deviation of 23.
    assert together(away) > 256 + 10 * 23
    assert together(back) == pytest.approx(together(start), rel=1e-3)


def shell_of(draws: Draws, start: Tensor, away: Tensor) -> Tensor:
    shell = built(draws)
    return shell.retract(away, shell.init(start))


def free_scores(noise_N: Tensor, draws: Draws) -> dict[str, float]:
    """Statistics that the shell leaves free, each nearly N(0, 1) over Gaussian noise."""
    z = noise_N.double()
    count = z.numel()
    unit = (z - z.mean()) / z.std()
    maps = maps_of(noise_N, draws)[0]
    neighbours = (maps[..., 1:] * maps[..., :-1]).flatten()
    cumulative = 0.5 * (1 + torch.erf(z.sort().values / math.sqrt(2)))
    steps = torch.arange(1, count + 1, dtype=torch.float64) / count
    distance = torch.maximum(steps - cumulative, cumulative - steps + 1 / count).max()
    return {
        "kurtosis": ((unit**4).mean() - 3).item() * math.sqrt(count / 24),
        "skewness": (unit**3).mean().item() * math.sqrt(count / 6),
        "neighbours": neighbours.sum().item() / math.sqrt(neighbours.numel()),
        # Kolmogorov's statistic has this mean and this standard deviation.
        "largest gap": (math.sqrt(count) * distance.item() - 0.8687) / 0.2603,
        "mean": z.sum().item() / math.sqrt(count),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random", "steady"])
def test_gaussian_in_gaussian_out_for_gradients_that_do_not_know_the_noise(kind):
    """Over many seeds the free statistics keep the mean and spread that Gaussian noise gives."""
    draws = ((4, 8, 8),) * 6
    seeds = range(80)
    start = gaussian_noise(draws, seeds)
    shell = built(draws)
    state = shell.init(start)
    noise = start
    towards = torch.randn(start.shape, generator=torch.Generator().manual_seed(99))
    for step in range(5):
        grad = towards if kind == "steady" else gradients("random", noise, step)
        noise = shell.retract(noise + 5 * grad / grad.norm(dim=1, keepdim=True), state)
    assert (noise - start).norm(dim=1).min() > 6

    table = [free_scores(row, draws) for row in noise]
    before = [free_scores(row, draws) for row in start]
    for name in table[0]:
        scores = torch.tensor([one[name] for one in table])
        usual = torch.tensor([one[name] for one in before])
        # Two samples of 80: their means are within 4.5 standard errors of each other, and their
        # spreads within three tenths.
        apart = (scores.mean() - usual.mean()).abs()
        assert apart < 4.5 * math.sqrt(2 / 80), (name, scores.mean(), usual.mean())
        assert 0.7 < scores.std() / usual.std() < 1.43, (name, scores.std(), usual.std())
        assert scores.abs().max() < 5.5, name


def test_a_climb_that_knows_the_noise_shows_in_what_is_free():
    """The other way round: free statistics are evidence, since the shell does not hide a climb."""
    draws = ((4, 8, 8),) * 8
    start = gaussian_noise(draws, [1])
    shell = built(draws)
    state = shell.init(start)
    noise = start
    for step in range(30):
        grad = gradients("kurtosis", noise, step)
        noise = shell.retract(noise + 5 * grad / grad.norm(), state)
    assert free_scores(noise[0], draws)["kurtosis"] > 6


def test_the_state_survives_safetensors():
    draws = NOISES["mixed"]
    start = gaussian_noise(draws, [1, 2])
    away = start + 0.5 * gaussian_noise(draws, [3, 4])
    shell = built(draws)
    state = shell.init(start)
    again = load(save(dict(state)))
    assert torch.equal(shell.retract(away, state), built(draws).retract(away, again))


def test_a_row_without_draws_is_a_line():
    start = gaussian_noise(((64,),), [1])
    away = start + 0.5 * gaussian_noise(((64,),), [2])
    unknown = built(())
    line = built(((64,),))
    there = unknown.retract(away, unknown.init(start))
    assert torch.equal(there, line.retract(away, line.init(start)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_sick_row_leaves_the_others_alone(bad):
    draws = NOISES["twenty latents"]
    start = gaussian_noise(draws, [1, 2])
    away = start + 0.1
    expected = shell_of(draws, start, away)
    away[0, 7] = bad
    back = shell_of(draws, start, away)
    assert torch.equal(back[1], expected[1])
    assert not back[0].isfinite().all()


def test_blocks_without_energy_divide_by_nothing():
    draws = ((1, 4, 4),) * 3
    start = gaussian_noise(draws, [1])
    back = shell_of(draws, start, torch.zeros_like(start))
    assert back.isfinite().all()
    nothing = torch.zeros_like(start)
    assert torch.equal(shell_of(draws, nothing, nothing), nothing)


def test_few_entries_keep_no_covariance_of_many_channels():
    """16 channels of 16 entries: to keep their covariance would leave no way to move."""
    draws = ((16, 4, 4),)
    start = gaussian_noise(draws, [1])
    other = gaussian_noise(draws, [2])
    shell = built(draws, reach=0)
    back = shell.retract(start + 10 * other / other.norm(), shell.init(start))
    assert (back - start).norm() > 5
    assert worst(back, start, draws)["energies"] < 1e-3


@given(size=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_the_channels_map_is_symmetric_positive_and_right(size, seed):
    generator = torch.Generator().manual_seed(seed)
    found, wanted = (
        torch.randn(size, 4 * size + 4, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    found, wanted = found @ found.T, wanted @ wanted.T
    least = _least_map(found, wanted)
    torch.testing.assert_close(least @ found @ least, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(least, least.T, rtol=1e-9, atol=1e-9)
    assert torch.linalg.eigvalsh(least).min() > 0


@given(
    channels=st.integers(1, 4),
    height=st.integers(1, 8),
    width=st.integers(1, 8),
    count=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
def test_the_transform_is_orthonormal_and_its_frequencies_are_those_of_an_fft(
    channels, height, width, count, seed
):
    draws = ((channels, height, width),) * count
    (noise,) = gaussian_noise(draws, [seed]).double()
    layout = Layout(draws)
    (blocks,) = layout.blocks(noise)
    torch.testing.assert_close(layout.noise([blocks], noise), noise, rtol=1e-9, atol=1e-9)
    assert blocks.square().sum().item() == pytest.approx(noise.square().sum().item())

    (group,) = layout.groups(noise)
    assert group.entries(blocks).sum() == channels * height * width
    (maps,) = maps_of(noise, draws)
    spectrum = torch.fft.fft2(dct_by_fft(maps), norm="ortho")[..., : width // 2 + 1]
    mean = blocks.square().sum((1, 3)) / group.entries(blocks)[:, 0]
    expected = spectrum.abs().square().sum(1).flatten(1) / channels
    torch.testing.assert_close(mean, expected, rtol=1e-8, atol=1e-10)


def test_a_run_with_adam_climbs_on_the_shell():
    draws = ((3, 8, 8),) * 4
    sampler = FunctionSampler(lambda *z: sum(z) / 2, draws)
    result = dno.optimize(
        "x",
        reward=lambda points, prompts: points[:, 0, 2, 3],
        sampler=sampler,
        regularizer=[],
        optimizer={"use": "adam", "lr": 0.1},
        iterations=15,
        settings={"constraints": ["shell"], "log_p_floor": float("-inf")},
    )
    off = worst(result.last.noise_BN, result.initial.noise_BN, draws)
    assert max(off.values()) < 1e-3
    assert result.best.score_B > result.initial.score_B


SAVED = ("through", "stopped")


@pytest.mark.parametrize("optimizer", ["ascent", "torch", "sgd"])
def test_a_resumed_run_ends_at_the_same_bits(optimizer, tiny_folder, tmp_path):
    def climb(name: str, iterations: int) -> None:
        values: dict[str, object] = {"use": optimizer}
        if optimizer == "torch":
            values |= {"schedule": "StepLR", "schedule_options": {"step_size": 1}}
        dno.optimize(
            "a cat",
            reward="brightness",
            sampler={"use": "ddim", "model": str(tiny_folder), "steps": 2},
            regularizer=[],
            optimizer=values,
            iterations=iterations,
            out=tmp_path / name,
            settings={"constraints": [{"use": "shell", "reach": 4}], "observers": []},
        )

    climb("through", 4)
    climb("stopped", 2)
    dno.resume(tmp_path / "stopped", iterations=4)
    states = [load((tmp_path / name / "state.safetensors").read_bytes()) for name in SAVED]
    assert any("start_BN" in name for name in states[0])
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name


@pytest.mark.parametrize("options", [{"reach": -1}, {"rounds": 0}, {"every": -1}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValidationError, match=next(iter(options))):
        Shell(**options)


@pytest.mark.parametrize("config", [Shell(), Ascent()], ids=lambda config: type(config).__name__)
@pytest.mark.parametrize(
    ("shape", "moves"),
    [((2,), False), ((1, 2, 2), False), ((1,), False), ((3,), True), ((2, 1), True)],
    ids=str,
)
def test_noise_that_has_no_direction_to_turn_to_is_refused(
    config: Shell | Ascent, shape: tuple[int, ...], moves: bool
) -> None:
    context = BuildContext(torch.device("cpu"), torch.float32, draws=(shape,) * 3)
    if moves:
        config.build(context)
        return
    with pytest.raises(ConfigError, match=r"cannot move draws of shape .*; choose another"):
        config.build(context)
