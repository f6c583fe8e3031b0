"""What a run imports before its first iteration, and what it does not."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROBE = """
import sys
from dno_builtin.samplers._diffusers import noise_map

from dno.runs.load import load
from dno.runs.pose import pose
from dno.runs.run_config import RunConfig

config = RunConfig.parse(
    {"prompts": "a black cat", "rewards": "brightness", "observers": ["images", "curve"]}
)
grids = []
coarse_path = noise_map.coarse_path
noise_map.coarse_path = lambda *bound: grids.append(bound) or coarse_path(*bound)
pose(load(config), config)
print(len(grids), *sys.modules)
"""

UNNEEDED = {
    "IPython",
    "diffusers.pipelines.auto_pipeline",
    "matplotlib",
    "onnxruntime",
    "pandas",
    "scipy",
    "sklearn",
    "torchvision",
    "transformers.pipelines",
}
"""What draws at the end, imports all that there is, or is somebody else's."""
PIPELINES = {"pipeline_loading_utils", "pipeline_utils", "stable_diffusion"}
"""What is imported of diffusers' pipelines."""


def test_a_run_begins_without_what_it_does_not_need_yet() -> None:
    """matplotlib draws at the end; automatic pipelines import every pipeline there is."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, timeout=300
    )
    grids, *modules = done.stdout.split()
    imported = set(modules)
    assert "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion" in imported
    assert not sorted(imported & UNNEEDED)
    pipelines = {name.split(".")[2] for name in imported if name.startswith("diffusers.pipelines.")}
    assert pipelines == PIPELINES
    assert grids == "1", "each grid is bound once, which takes a rehearsal"
