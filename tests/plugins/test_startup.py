"""What a run imports before its first iteration, and what it does not."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROBE = """
import sys
from dno.runs.load import load
from dno.runs.pose import pose
from dno.runs.run_config import RunConfig

config = RunConfig.parse(
    {"prompts": "a black cat", "rewards": "brightness", "observers": ["images", "curve"]}
)
pose(load(config), config)
print(*sys.modules)
"""


def test_a_run_begins_without_what_it_does_not_need_yet() -> None:
    """matplotlib draws at the end; automatic pipelines import every pipeline there is."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, timeout=300
    )
    imported = set(done.stdout.split())
    assert "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion" in imported
    assert not imported & {"matplotlib", "diffusers.pipelines.auto_pipeline"}
    assert not any(name.startswith("diffusers.pipelines.flux") for name in imported)
