"""Run docs/tutorials/first-run.ipynb and keep what it shows.

python docs/figures/notebook.py [FILE]

The bar of progress is left out of what is kept: it needs a running kernel to be shown. With a FILE,
all that was shown goes there, and the notebook stays as it is.
"""

from __future__ import annotations

import sys
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
            output for output in cell.outputs if "widget" not in str(output.get("data"))
        ]
    return notebook


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        done = executed(Path(name))
    if len(sys.argv) > 1:
        nbformat.write(done, sys.argv[1])
    else:
        nbformat.write(kept(done), NOTEBOOK)
