"""Every built-in constraint keeps its contract, whatever the noise is made of."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dno.registry.registry import CONSTRAINTS
from dno.testing import ConstraintContract

NAMES = [info.name for info in CONSTRAINTS.infos() if info.distribution == "dno"]
DRAWS = {
    "latents": ((4, 16, 16),) * 3,
    "one draw": ((16, 8, 8),),
    "grey": ((1, 12, 12),) * 4,
    "sequences": ((6, 60),) * 2,
    "a line": ((300,),),
    "mixed": ((4, 8, 8), (3, 5, 7), (4, 8, 8), (40,)),
}


def test_there_are_some() -> None:
    assert NAMES


@pytest.mark.parametrize("draws", DRAWS.values(), ids=DRAWS.keys())
@pytest.mark.parametrize("name", NAMES)
class TestConstraint(ConstraintContract):
    @pytest.fixture(autouse=True)
    def _config(self, name: str, draws: Sequence[tuple[int, ...]]) -> None:
        self.config = CONSTRAINTS.load(f"dno:{name}")()
        self.draws = draws  # type: ignore[misc]
