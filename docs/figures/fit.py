"""Write the table of docs/how-to/fit-your-gpu.md: which models fit which cards, from their
configurations alone.

python docs/figures/fit.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from dno.core.costs import GIB, Beside, Room
from dno.plugin import Footprint
from dno.runs.run_config import RunConfig

PAGE = Path(__file__).parents[1] / "how-to" / "fit-your-gpu.md"
MODELS = Path(__file__).parent / "models"
CARDS = (8, 12, 16, 24, 40, 80)
STEPS = (10, 50)
DRIVER = GIB
"""Bytes of a card that its driver and torch take."""


@dataclass(frozen=True)
class Model:
    """A row of the table."""

    name: str
    folder: str
    sampler: str
    size: int


SHAPES = (
    Model("SD 1.5, 512 px", "sd-1.5", "ddim", 512),
    Model("SDXL, 1024 px", "sdxl", "ddim", 1024),
    Model("SD 3.5 medium, 1024 px", "sd-3.5-medium", "pipeline", 1024),
    Model("FLUX dev, 1024 px", "flux-dev", "pipeline", 1024),
)


def footprints(model: Model, steps: int) -> Iterator[Footprint]:
    """What one sample of a model needs at the least, and on each card."""
    from dno.registry.configs import BuildContext

    config = RunConfig.parse(
        {
            "prompts": ["a black cat"],
            "rewards": ["brightness"],
            "sampler": {
                "use": model.sampler,
                "model": str(MODELS / model.folder),
                "steps": steps,
                "height": model.size,
                "width": model.size,
            },
        }
    )
    context = BuildContext(torch.device("cpu"), torch.bfloat16, weightless=True)
    sampler = config.sampler.build(context)
    for card in (0, *CARDS):
        room = max(0, card * GIB - DRIVER)

        def beside(_: object, entries: int) -> Beside:
            return Beside(held=12 * 4 * entries)

        sampler.make_room(Room(room, beside, must_fit=False, aside=None))
        yield sampler.bind(["a black cat"], [0]).footprint


def cell(footprint: Footprint) -> str:
    """What a card does with a model."""
    if footprint.missing:
        return f"{-footprint.missing / GIB:.1f}"
    return f"{footprint.passes:.2f}"


def table() -> str:
    """The table, as Markdown."""
    heads = [f"{card} GB" for card in CARDS]
    lines = [
        f"| model | steps | least, GiB | {' | '.join(heads)} |",
        f"|---|---|---|{'---|' * len(heads)}",
    ]
    for model in SHAPES:
        for steps in STEPS:
            smallest, *found = footprints(model, steps)
            least = smallest.peak / GIB
            cells = " | ".join(map(cell, found))
            lines.append(f"| {model.name} | {steps} | {least:.1f} | {cells} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    """Put the table between its two marks."""
    found = table()
    # It takes minutes, in which the page may change.
    text = PAGE.read_text(encoding="utf-8")
    marks = r"(?<=<!-- table: python docs/figures/fit.py -->\n).*?(?=\n<!-- end of the table -->)"
    PAGE.write_text(re.sub(marks, f"\n{found}\n", text, flags=re.S), encoding="utf-8")


if __name__ == "__main__":
    main()
