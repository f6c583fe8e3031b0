"""Full-size figures and checks on a GPU: one script of at most ten minutes.

    python tests/gpu/figures.py                          on the first CUDA device
    python tests/gpu/figures.py --device cpu --tiny      the same on tiny models, anywhere
    python tests/gpu/figures.py --out figures.json

For networks of the shapes of Stable Diffusion 1.5 and XL, with random weights in bfloat16: seconds
of an iteration and of a plain sample, peak memory by memory policy, what `dno plan` predicts beside
it, whether repeats and policies give the same gradient to the bit, how near the gradient is to that
in float32, what parking text encoders frees and takes, and what compiled blocks, channels-last
weights and TF32 gain and change. Prints a line a figure and JSON at the end, and ends with 1 where
a check fails. What has not begun when `--minutes` are over is left out, and said to be.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from dno_builtin.samplers._ddim import DDIMSampler
from shapes import FULL, TINY, made_on, save_configurations
from torch import Tensor

from dno.core.budget import peak_memory
from dno.core.costs import Beside, Room
from dno.core.surroundings import tf32
from dno.errors import DNOError

POLICIES = ("recompute", "keep")
"""Memory policies, the thriftiest first: what does not fit does not keep others from being
measured."""
CLOSE = 0.98
"""Cosine of the bfloat16 gradient to the float32 one that is asked for."""
PROMPT = "a black cat"


@dataclass
class Report:
    """What was found."""

    device: str
    figures: dict[str, float | None] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def note(self, name: str, value: float | None, unit: str) -> None:
        """A figure; None where it cannot be had here."""
        self.figures[name] = value
        shown = "not known here" if value is None else f"{value:.4g} {unit}"
        print(f"{name}: {shown}", flush=True)

    def check(self, name: str, holds: bool) -> None:
        """Something that must hold."""
        self.checks[name] = holds
        print(f"{name}: {'holds' if holds else 'DOES NOT HOLD'}", flush=True)

    def leave_out(self, name: str, why: str) -> None:
        """What was not measured."""
        self.left_out.append(f"{name}: {why}")
        print(f"{name}: left out, {why}", flush=True)


def waited(device: torch.device) -> float:
    """The time, once the device has done what it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def bound(pipe: Any, steps: int, memory: str, dtype: torch.dtype, **speed: bool) -> Any:
    """The pipeline as a noise map."""
    sampler = DDIMSampler(pipe, steps=steps, memory=memory, dtype=dtype, **speed)
    return sampler.bind([PROMPT], [0])


def gradient(sample: Any) -> Tensor:
    """That of the mean picture, in the noise."""
    noise_BN = sample.noise_BN.clone().requires_grad_()
    (grad_BN,) = torch.autograd.grad(sample(noise_BN).mean(), noise_BN)
    return grad_BN


def seconds_of(job: Callable[[], object], device: torch.device, rounds: int) -> float:
    """The median of some turns, after one that does not count."""
    job()
    found = []
    for _ in range(rounds):
        began = waited(device)
        job()
        found.append(waited(device) - began)
    return statistics.median(found)


def predicted_peak(pipe: Any, steps: int, memory: str, device: torch.device) -> float | None:
    """Bytes that `dno plan` foretells; None where this version has none, or cannot tell."""
    try:
        planner = importlib.import_module("dno.runs.plan")
    except ImportError:
        return None

    from dno import RunConfig

    with tempfile.TemporaryDirectory() as folder:
        save_configurations(pipe, Path(folder))
        config = RunConfig.parse(
            {
                "prompts": PROMPT,
                "rewards": "brightness",
                "dtype": "bfloat16",
                "device": str(device),
                "coarse": [],
                "sampler": {"use": "ddim", "model": folder, "steps": steps, "memory": memory},
            }
        )
        try:
            return float(planner.plan(config).footprint.peak)
        except DNOError as error:
            print(f"dno plan: {error}", flush=True)
            return None


def measure_policy(
    report: Report, name: str, pipe: Any, steps: int, memory: str, rounds: int
) -> Tensor | None:
    """Time, peak and repeats of one policy; the gradient, where it fits."""
    device = pipe.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        sample = bound(pipe, steps, memory, torch.bfloat16)
        first_BN = gradient(sample)
        report.check(f"{name}.repeats_to_the_bit", torch.equal(first_BN, gradient(sample)))
        seconds = seconds_of(lambda: gradient(sample), device, rounds)
    except torch.OutOfMemoryError:
        report.leave_out(name, "it does not fit")
        return None
    report.note(f"{name}.seconds", seconds, "s an iteration")
    report.note(f"{name}.peak", peak_memory(device) / 2**30, "GiB")
    found = predicted_peak(pipe, steps, memory, device)
    report.note(f"{name}.predicted_peak", found if found is None else found / 2**30, "GiB")
    return first_BN


SPEED: dict[str, tuple[dict[str, bool], torch.dtype, bool]] = {
    "compile": ({"compile": True}, torch.bfloat16, False),
    "channels_last": ({"channels_last": True}, torch.bfloat16, False),
    "tf32": ({}, torch.float32, True),
}
"""Options of the sampler, what it computes in, and whether TF32 is on."""


def measure_speed(
    report: Report, name: str, pipe: Any, *, steps: int, rounds: int, until: float
) -> None:
    """What options for speed gain over none, and how near their gradient is."""
    device = pipe.device
    plain: dict[torch.dtype, tuple[float, Tensor]] = {}
    for option, (options, dtype, rounded) in SPEED.items():
        if time.monotonic() > until:
            report.leave_out(f"{name}.{option}", "the time is over")
            continue
        try:
            if dtype not in plain:
                sample = bound(pipe, steps, "recompute", dtype)
                once = seconds_of(lambda sample=sample: gradient(sample), device, rounds)
                plain[dtype] = once, gradient(sample)
            with tf32() if rounded else contextlib.nullcontext():
                sample = bound(pipe, steps, "recompute", dtype, **options)
                seconds = seconds_of(lambda sample=sample: gradient(sample), device, rounds)
                found_BN = gradient(sample)
        except (DNOError, torch.OutOfMemoryError) as error:
            report.leave_out(f"{name}.{option}", str(error).partition("\n")[0])
            continue
        before, expected_BN = plain[dtype]
        report.note(f"{name}.{option}.time", seconds / before, "times an iteration without")
        cosine = torch.cosine_similarity(found_BN.flatten(), expected_BN.flatten(), dim=0).item()
        report.note(f"{name}.{option}.cosine", cosine, "to the gradient without")
        report.check(f"{name}.{option}.is_near", cosine > CLOSE)


def measure_parking(report: Report, name: str, pipe: Any, steps: int) -> None:
    """What leaves the device with the parts that a climb does not call, and how fast."""
    device = pipe.device
    sampler = DDIMSampler(pipe, steps=steps, memory="auto", dtype=torch.bfloat16)  # type: ignore[arg-type]
    sampler.make_room(Room(0, lambda shape, entries: Beside(), must_fit=False, aside=None))
    sample = sampler.bind([PROMPT], [0])
    with torch.no_grad():
        plain = sample(sample.noise_BN)

    def taken() -> int:
        return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0

    before = taken()
    began = waited(device)
    with sample.climbing():
        parked = waited(device)
        freed = before - taken()
        with torch.no_grad():
            report.check(f"{name}.same_bits", torch.equal(sample(sample.noise_BN), plain))
        leaving = waited(device)
    ended = waited(device)
    told = sum(sample.footprint.parked.values())
    is_gpu = device.type == "cuda"
    report.note(f"{name}.told", told / 2**30, "GiB")
    report.note(f"{name}.freed", freed / 2**30 if is_gpu else None, "GiB")
    report.note(f"{name}.leave.seconds", parked - began, "s")
    report.note(f"{name}.back.seconds", ended - leaving, "s")
    # An allocator rounds each tensor up.
    report.check(f"{name}.frees_what_is_told", not is_gpu or told <= freed < 1.1 * told + 2**24)
    report.check(f"{name}.is_given_back", abs(taken() - before) < 2**24)
    report.check(f"{name}.text_encoder_is_back", pipe.text_encoder.device == device)


def measure_model(
    report: Report,
    name: str,
    make: Callable[[], Any],
    *,
    device: torch.device,
    steps: int,
    rounds: int,
    until: float,
) -> None:
    """All figures of one model."""
    pipe = made_on(make, device, torch.bfloat16)
    gradients: list[Tensor] = []
    for memory in POLICIES:
        if time.monotonic() > until:
            report.leave_out(f"{name}.{memory}", "the time is over")
            continue
        found = measure_policy(report, f"{name}.{memory}", pipe, steps, memory, rounds)
        if found is not None:
            gradients.append(found)
    if len(gradients) > 1:
        same = all(torch.equal(gradients[0], other) for other in gradients[1:])
        report.check(f"{name}.policies_agree_to_the_bit", same)

    if time.monotonic() > until:
        report.leave_out(f"{name}.bfloat16", "the time is over")
        return
    measure_parking(report, f"{name}.parking", pipe, min(steps, 5))
    sample = bound(pipe, steps, "recompute", torch.bfloat16)

    def plain() -> None:
        with torch.no_grad():
            sample(sample.noise_BN)

    report.note(f"{name}.plain.seconds", seconds_of(plain, device, rounds), "s a sample")
    few = min(steps, 5)
    half_BN = gradient(bound(pipe, few, "recompute", torch.bfloat16))
    measure_speed(report, name, pipe, steps=few, rounds=rounds, until=until)
    pipe.to(torch.float32)
    wide_BN = gradient(bound(pipe, few, "recompute", torch.float32))
    cosine = torch.cosine_similarity(half_BN.flatten(), wide_BN.flatten(), dim=0).item()
    report.note(f"{name}.bfloat16.cosine", cosine, f"to float32, {few} steps")
    finite = bool(half_BN.isfinite().all() and wide_BN.isfinite().all())
    report.check(f"{name}.bfloat16.is_near", finite and cosine > CLOSE)


def measure(*, device: torch.device, tiny: bool, steps: int, rounds: int, minutes: float) -> Report:
    """All figures of all models."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    report = Report(name)
    until = time.monotonic() + 60 * minutes
    for model, make in (TINY if tiny else FULL).items():
        if time.monotonic() > until:
            report.leave_out(model, "the time is over")
            continue
        measure_model(report, model, make, device=device, steps=steps, rounds=rounds, until=until)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="models of kilobytes")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=Path, help="keep it as JSON")
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device here; --device cpu --tiny tries the script itself")
        return 2

    report = measure(
        device=device,
        tiny=args.tiny,
        steps=args.steps,
        rounds=args.rounds,
        minutes=args.minutes,
    )
    text = json.dumps(vars(report), indent=2)
    print(text)
    if args.out is not None:
        args.out.write_text(text)
    return 0 if all(report.checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
