"""Checkpoints of a training run, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

NAME = "checkpoint.pt"


def write(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / (NAME + ".part")
    torch.save(state, part)
    part.replace(folder / NAME)


def read(folder: Path) -> dict[str, Any] | None:
    """The checkpoint in `folder`, or None before the first."""
    path = folder / NAME
    state: dict[str, Any] | None = torch.load(path, weights_only=True) if path.exists() else None
    return state


def required(folder: Path) -> dict[str, Any]:
    """The checkpoint in `folder`.

    Raises:
        FileNotFoundError: there is none.
    """
    state = read(folder)
    if state is None:
        raise FileNotFoundError(f"no checkpoint in {folder}: run its training command first")
    return state


def save(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write a model, its optimizer and the number of steps done."""
    write(folder, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step})


def load(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore what `save` wrote, if anything; the number of steps done."""
    state = read(folder)
    if state is None:
        return 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    step: int = state["step"]
    return step
