"""The page that is a notebook runs, and shows what it did when it was written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "figures" / "notebook.py"
NOTEBOOK = ROOT / "docs" / "tutorials" / "first-run.ipynb"
LARGEST = 400_000
BAR = "application/vnd.jupyter.widget-view+json"

Cell = dict[str, Any]


def code_cells(path: Path) -> list[Cell]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def kinds(cell: Cell) -> list[list[str]]:
    """What each output of a cell can be shown as, but for the bar, which needs a kernel."""
    found = [sorted(output.get("data", [output["output_type"]])) for output in cell["outputs"]]
    return [kind for kind in found if BAR not in kind]


def test_the_notebook_runs_and_shows_what_it_shows(tmp_path: Path) -> None:
    # Without the settings of whoever runs the tests.
    own = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "IPYTHONDIR")}
    subprocess.run(
        [sys.executable, str(SCRIPT), "run.ipynb"],
        cwd=tmp_path,
        env={**os.environ, **own, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    cells = code_cells(tmp_path / "run.ipynb")

    # What the run takes, and a bar of a notebook's own kind: no library says anything beside them.
    said, bar = cells[0]["outputs"]
    assert "".join(said["text"]).startswith("memory: keep all")
    assert "".join(said["text"]).count("\n") == 1
    assert BAR in bar["data"]
    (shown,) = cells[1]["outputs"]
    html = "".join(shown["data"]["text/html"])
    assert html.count("<img") == 2
    assert "<svg" in html
    assert "finished: best at iteration" in html

    # As it is kept, it has the same kinds of things in each cell, and none of them large.
    assert NOTEBOOK.stat().st_size < LARGEST
    written = code_cells(NOTEBOOK)
    assert [kinds(cell) for cell in written] == [kinds(cell) for cell in cells]
    assert [cell["source"] for cell in written] == [cell["source"] for cell in cells]
    assert all(cell["execution_count"] for cell in written)
