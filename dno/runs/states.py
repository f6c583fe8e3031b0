"""A run's state as tensors by name and plain values, taken apart, put together and checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from dno.core.problem import Problem
from dno.core.result import Snapshot, StepRecord
from dno.core.stages import LoopState, Phase, problem_of, under
from dno.runs.history import Mark
from dno.runs.tensor_files import UNCHECKED
from dno.wording import short

_SNAPSHOTS: Final = ("initial", "best", "coarse_best", "last")
_MAYBE: Final = ("fine_BN", "repair_B")
_FREE: Final = ("optimizer.", "constraints.")
"""Tensors that only a plugin knows."""
_GROUPS: Final = ("rewards.", "monitors.", "log_p.", "figures.")
"""What a snapshot holds by name, `B` numbers each."""
_ASKED: Final = ("rewards.", "monitors.")
"""Those of them that every evaluation gives."""
_DIMENSIONS: Final = {"noise_BN": 2, "samples": None, "score_B": 1, "iteration_B": 1}
"""What else a snapshot holds."""


class About(BaseModel):
    """The plain values of a state."""

    model_config = ConfigDict(strict=True, frozen=True)

    iteration: Annotated[int, Field(ge=0)]
    phase: Annotated[int, Field(ge=0)]
    steps: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    failures: dict[str, str]
    ended: dict[str, Annotated[int, Field(ge=0)]] = {}
    config: dict[str, Any]
    history: Mark | None = None
    """None in format 2."""


def about_of(state: LoopState, config: Mapping[str, Any], mark: Mark) -> dict[str, Any]:
    """The plain values of a state, as JSON can hold them."""
    return {
        "iteration": state.iteration,
        "phase": state.phase,
        "steps": state.steps,
        "seconds": state.seconds,
        "failures": {str(row): why for row, why in state.failures.items()},
        "ended": {str(row): last for row, last in state.ended.items()},
        "config": dict(config),
        "history": mark.model_dump(),
    }


def tensors_of(state: LoopState) -> dict[str, Tensor]:
    """All tensors of a state by name."""
    tensors = {"noise": state.noise_BN}
    tensors |= {f"optimizer.{key}": value for key, value in state.optimizer.items()}
    tensors |= {f"constraints.{key}": value for key, value in state.constraints.items()}
    for name in _SNAPSHOTS:
        snapshot: Snapshot | None = getattr(state, name)
        if snapshot is not None:
            tensors |= {f"{name}.{key}": value for key, value in snapshot.tensors().items()}
    for name in _MAYBE:
        tensor: Tensor | None = getattr(state, name)
        if tensor is not None:
            tensors[name] = tensor
    return tensors


def read_about(values: Mapping[str, Any]) -> About:
    """The plain values, checked.

    Raises:
        ValueError: something is missing or of another kind.
    """
    try:
        about = About.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise ValueError(f"{at} cannot be {short(first['input'], 60)}") from None
    if about.history is None and values.get("format") != UNCHECKED:
        raise ValueError("it says nothing of its history")
    return about


def state_of(
    about: About, tensors: Mapping[str, Tensor], history: Sequence[StepRecord], samples: int
) -> LoopState:
    """The state that `tensors_of` and `about_of` took apart.

    Args:
        about: its plain values.
        tensors: its tensors.
        history: the records of its iterations.
        samples: how many the run has.

    Raises:
        ValueError: a tensor is missing, is one too many, or has another shape or kind; or records
            are of another number of samples.
    """
    _check(tensors, samples)
    if any({len(record.reward), len(record.healthy)} != {samples} for record in history):
        raise ValueError(f"a record is not of {samples} samples")

    for row in (*about.failures, *about.ended):
        if not row.isdecimal() or int(row[:9]) >= samples:
            raise ValueError(f"there is no sample {short(row, 20)}, which failed or ended")

    def snapshot(name: str) -> Snapshot | None:
        found = under(f"{name}.", tensors)
        return Snapshot.of(found) if found else None

    return LoopState(
        iteration=about.iteration,
        noise_BN=tensors["noise"],
        optimizer=under("optimizer.", tensors),
        constraints=under("constraints.", tensors),
        phase=about.phase,
        steps=about.steps,
        history=list(history),
        failures={int(row): why for row, why in about.failures.items()},
        ended={int(row): last for row, last in about.ended.items()},
        seconds=about.seconds,
        initial=snapshot("initial"),
        best=snapshot("best"),
        coarse_best=snapshot("coarse_best"),
        last=snapshot("last"),
        fine_BN=tensors.get("fine_BN"),
        repair_B=tensors.get("repair_B"),
    )


def _check(tensors: Mapping[str, Tensor], samples: int) -> None:
    """Raise `ValueError` unless these are the tensors of a state of so many samples."""
    required = {"noise"}
    required |= {f"{name}.{key}" for name in ("initial", "best") for key in _DIMENSIONS}
    for name in ("coarse_best", "last"):
        if f"{name}.noise_BN" in tensors:
            required |= {f"{name}.{key}" for key in _DIMENSIONS}
    missing = sorted(required - tensors.keys())
    if missing:
        raise ValueError(f"there is no tensor {missing[0]}")

    for name, tensor in tensors.items():
        if name.startswith(_FREE):
            continue
        fits = len(tensor.shape) > 0 and len(tensor) == samples
        if name == "repair_B":
            fits = fits and str(tensor.dtype) == "torch.bool" and tensor.dim() == 1
        else:
            dimensions = _dimensions(name)
            fits = fits and dimensions in (None, tensor.dim())
            # Samples are whatever the sampler makes.
            fits = fits and (dimensions is None or tensor.is_floating_point())
        if not fits:
            raise ValueError(f"the tensor {short(name, 60)} has another shape or kind")

    here = {name: _reported(name, tensors) for name in _SNAPSHOTS if f"{name}.noise_BN" in tensors}
    # What there is to say of noise depends on how much there is, and a coarse grid has less.
    asked = {name: {key for key in keys if key.startswith(_ASKED)} for name, keys in here.items()}
    if here["best"] != here["initial"] or any(keys != asked["initial"] for keys in asked.values()):
        raise ValueError("its snapshots tell of different figures")


def _dimensions(name: str) -> int | None:
    """How many dimensions a tensor has; None: any.

    Raises:
        ValueError: a state has no such tensor.
    """
    if name in ("noise", "fine_BN"):
        return 2
    part, _, key = name.partition(".")
    if part in _SNAPSHOTS and key in _DIMENSIONS:
        return _DIMENSIONS[key]
    if part in _SNAPSHOTS and key.startswith(_GROUPS):
        return 1
    raise ValueError(f"a state has no tensor {short(name, 60)}")


def _reported(snapshot: str, tensors: Mapping[str, Tensor]) -> set[str]:
    return set(under(f"{snapshot}.", tensors)) - _DIMENSIONS.keys()


def misfit(state: LoopState, problem: Problem, phases: Sequence[Phase]) -> str:
    """Why a state does not belong to a problem and its phases; empty where it does."""
    assert state.initial is not None
    if state.phase >= len(phases):
        return f"it is in part {state.phase + 1} of a run of {len(phases)}"
    here = problem_of(phases[state.phase], problem).sample
    for name, noise_BN, drawn_BN in (
        ("its noise", state.noise_BN, here.noise_BN),
        ("the noise it began at", state.initial.noise_BN, problem.sample.noise_BN),
    ):
        if noise_BN.shape != drawn_BN.shape:
            return f"{name} is {_size(noise_BN)}, where the sampler draws {_size(drawn_BN)}"

    asked = {f"rewards.{term.name}" for term in problem.rewards}
    asked |= {f"monitors.{term.name}" for term in problem.monitors}
    named = {
        f"{field.name}.{key}"
        for field in dataclasses.fields(state.initial)
        if field.name in ("rewards", "monitors")
        for key in getattr(state.initial, field.name)
    }
    if asked != named:
        return f"it tells of other rewards: {', '.join(sorted(asked ^ named))}"
    return ""


def _size(noise_BN: Tensor) -> str:
    return f"{len(noise_BN)} x {math.prod(noise_BN.shape[1:])}"
