"""Run docs/tutorials/first-run.ipynb and keep what it shows.

python docs/figures/notebook.py

The bar of progress is left out of what is kept: it needs a running kernel to be shown.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "tutorials" / "first-run.ipynb"
PATIENCE = 600
"""Seconds that a cell may take."""


def executed(folder: Path) -> nbformat.NotebookNode:
    """The notebook with what its cells gave, run in a folder of its own."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=PATIENCE, kernel_name="python3", resources={"metadata": {"path": folder}}
    )
    client.execute()
    return notebook


def kept(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without what only a running kernel can show, or differs from run to run."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.outputs = [
            output for output in cell.outputs if not any("widget" in kind for kind in kinds(output))
        ]
    return notebook


def kinds(output: nbformat.NotebookNode) -> list[str]:
    """What an output of a cell can be shown as."""
    return list(output.get("data", {})) or [output.output_type]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        nbformat.write(kept(executed(Path(name))), NOTEBOOK)
