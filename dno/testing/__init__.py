"""What a plugin's own tests need: tiny real models, and a class of tests for each kind of plugin.

An author subclasses the class of the plugin's kind and names a config; that is the whole test:

    from dno.testing import RewardContract
    from dno_greenness import Greenness

    class TestGreenness(RewardContract):
        config = Greenness(blue=0.2)

Names below are imported on first use: the classes need pytest, which `dno` itself does not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dno.testing.constraints import ConstraintContract as ConstraintContract
    from dno.testing.observers import ObserverContract as ObserverContract
    from dno.testing.optimizers import OptimizerContract as OptimizerContract
    from dno.testing.regularizers import RegularizerContract as RegularizerContract
    from dno.testing.rewards import RewardContract as RewardContract
    from dno.testing.samplers import SamplerContract as SamplerContract

_HOMES = {
    f"{kind}Contract": f"{kind.lower()}s"
    for kind in ("Constraint", "Observer", "Optimizer", "Regularizer", "Reward", "Sampler")
}

__all__ = [
    "ConstraintContract",
    "ObserverContract",
    "OptimizerContract",
    "RegularizerContract",
    "RewardContract",
    "SamplerContract",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'dno.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dno.testing.{_HOMES[name]}"), name)
