"""The page that is a notebook runs, and shows what it did when it was written."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LARGEST = 400_000


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    script = ROOT / "docs" / "figures" / "notebook.py"
    spec = importlib.util.spec_from_file_location("notebook", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# What libraries of notebooks say of their own transport and packages is not ours to mend.
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs_and_shows_what_it_shows(
    maker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat

    # Settings of whoever runs the tests.
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    written = nbformat.read(maker.NOTEBOOK, as_version=4)
    run = maker.executed(tmp_path)
    cells = [cell for cell in run.cells if cell.cell_type == "code"]

    # A bar of its own kind, and nothing else: no library says anything beside it.
    (bar,) = cells[0].outputs
    assert "application/vnd.jupyter.widget-view+json" in bar.data
    (shown,) = cells[1].outputs
    html = shown.data["text/html"]
    assert html.count("<img") == 2
    assert "<svg" in html
    assert "brightness" in html

    # The notebook as it is kept: the same kinds of things in each cell, and none of them large.
    assert maker.NOTEBOOK.stat().st_size < LARGEST
    was = [[maker.kinds(output) for output in cell.get("outputs", [])] for cell in written.cells]
    now = [
        [maker.kinds(output) for output in cell.get("outputs", [])]
        for cell in maker.kept(run).cells
    ]
    assert was == now
    assert all(cell.execution_count for cell in written.cells if cell.cell_type == "code")
