"""The one module that a plugin imports from.

A plugin is a config class (`RewardConfig` or another base below) that an entry point names; its
`build` returns anything with the methods of the matching protocol.
"""

from __future__ import annotations

from dno.config import BuildContext as BuildContext
from dno.config import ModelConfig as ModelConfig
from dno.config import ObserverConfig as ObserverConfig
from dno.config import OptimizerConfig as OptimizerConfig
from dno.config import PluginConfig as PluginConfig
from dno.config import RegularizerConfig as RegularizerConfig
from dno.config import RewardConfig as RewardConfig
from dno.config import SamplerConfig as SamplerConfig
from dno.errors import ConfigError as ConfigError
from dno.errors import RunError as RunError
from dno.events import RunInfo as RunInfo
from dno.events import hookimpl as hookimpl
from dno.models import find_model as find_model
from dno.noise import gaussian_noise as gaussian_noise
from dno.pictures import pictures as pictures
from dno.protocols import NoiseMap as NoiseMap
from dno.protocols import Objective as Objective
from dno.protocols import Optimizer as Optimizer
from dno.protocols import Penalty as Penalty
from dno.protocols import Regularizer as Regularizer
from dno.protocols import Reward as Reward
from dno.protocols import Sampler as Sampler
from dno.protocols import State as State
from dno.result import Result as Result
from dno.result import StepRecord as StepRecord
