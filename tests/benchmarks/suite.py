"""Benchmarks of what a run costs, on the embedded model.

    python tests/benchmarks/suite.py                       all of it, and what moved: half an hour
    python tests/benchmarks/suite.py --quick               fewer turns: a few minutes
    python tests/benchmarks/suite.py --only engine batch   some parts
    python tests/benchmarks/suite.py --only full_size      by its name alone: minutes, 6 GB
    python tests/benchmarks/suite.py --write               and put it into docs/explanation/cost.md

Prints a table, and what moved by more than its noise since the figures of `--against`, by default
those that the docs show. Figures are CPU seconds of one thread, ratios of what was measured in
turns, or bytes. `--out` keeps them as JSON.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measuring import SIZES, Figure, compare, read_figures, table, write_figures
from parts import PARTS, USUAL, measure

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "cost.md"
FIGURES = PAGE.with_suffix(".json")
"""What the page's tables are made from."""
BEGIN = "<!-- begin: python tests/benchmarks/suite.py --write -->"
END = "<!-- end -->"


def about(size: str) -> dict[str, Any]:
    """What figures are of."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers")}
    return {"size": size, **versions, "python": platform.python_version()}


def as_tables(figures: Sequence[Figure]) -> str:
    """A table a part, under its heading."""
    parts = []
    for part, heading in PARTS.items():
        ours = [figure for figure in figures if figure.name.startswith(f"{part}.")]
        if ours:
            parts.append(f"### {heading}\n\n{table(ours)}")
    return "\n\n".join(parts)


def in_page(page: str, tables: str) -> str:
    """The page with other tables between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE} lacks its marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def told(figures: Sequence[Figure], size: str, against: Path) -> str:
    """What moved since other figures were written."""
    if not against.exists():
        return f"nothing to compare with: there is no {against}"
    before, their = read_figures(against)
    if their["size"] != size:
        # Of other sizes, other figures have the same name.
        return f"not compared: {against} is {their['size']}, this is {size}"
    measured = {figure.name.partition(".")[0] for figure in figures}
    before = [figure for figure in before if figure.name.partition(".")[0] in measured]
    moved = compare(before, figures)
    if not moved:
        return "nothing moved by more than its noise"
    title = "moved by more than its noise, or without an interval"
    return f"{title}:\n  " + "\n  ".join(moved)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, compare and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=list(SIZES), default="full")
    parser.add_argument("--quick", action="store_const", dest="size", const="quick")
    parser.add_argument("--only", nargs="+", metavar="PART", choices=list(PARTS), default=None)
    parser.add_argument("--out", type=Path, help="keep the figures as JSON")
    parser.add_argument("--against", type=Path, default=FIGURES, help="JSON to compare with")
    parser.add_argument(
        "--from", type=Path, dest="given", metavar="JSON", help="measure nothing: read figures"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into the docs")
    args = parser.parse_args(arguments)

    if args.given is not None:
        figures, facts = read_figures(args.given)
    else:
        facts = about(args.size)
        figures = _measured(args.only or USUAL, args.size, facts, args.out)
    print(as_tables(figures))
    print(told(figures, facts["size"], args.against))

    if args.write:
        # Parts that were not measured stay as they are.
        measured = {figure.name.partition(".")[0] for figure in figures}
        kept = [f for f in read_figures(FIGURES)[0] if f.name.partition(".")[0] not in measured]
        kept += figures
        write_figures(FIGURES, kept, facts)
        PAGE.write_text(in_page(PAGE.read_text("utf-8"), as_tables(kept)), "utf-8")


def _measured(
    parts: Sequence[str], size: str, facts: Mapping[str, Any], out: Path | None
) -> list[Figure]:
    import torch

    torch.set_num_threads(1)
    figures: list[Figure] = []
    for part in parts:
        began = time.perf_counter()
        figures += measure(part, SIZES[size])
        if out is not None:
            # After each part, so that whoever stops it has what was measured.
            write_figures(out, figures, facts)
        print(f"{part}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return figures


if __name__ == "__main__":
    main()
