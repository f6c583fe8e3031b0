"""The campaign of faults, as a test; see `campaign.py` for what befalls the runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_nothing_that_befalls_a_run_breaks_it() -> None:
    campaign = Path(__file__).with_name("campaign.py")
    done = subprocess.run(
        [sys.executable, campaign], capture_output=True, text=True, check=False, timeout=1200
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    sections = [line for line in done.stdout.splitlines() if " attempts, 0 failed, " in line]
    assert len(sections) == 9
