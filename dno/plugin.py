"""The one module that a plugin imports from.

A plugin is a config class (`RewardConfig` or another base below) that an entry point names; its
`build` returns anything with the methods of the matching protocol.
"""

from __future__ import annotations

from dno.core.costs import Beside as Beside
from dno.core.costs import Cost as Cost
from dno.core.costs import Room as Room
from dno.core.costs import gib as gib
from dno.core.events import RunFinished as RunFinished
from dno.core.events import RunInfo as RunInfo
from dno.core.events import RunStarted as RunStarted
from dno.core.events import StepDone as StepDone
from dno.core.events import hookimpl as hookimpl
from dno.core.noise import gaussian_noise as gaussian_noise
from dno.core.result import Outcome as Outcome
from dno.core.result import StepRecord as StepRecord
from dno.core.shapes import is_shape as is_shape
from dno.core.shapes import kept_by as kept_by
from dno.core.shapes import outlined as outlined
from dno.core.shapes import traced as traced
from dno.core.shapes import without_weights as without_weights
from dno.errors import ConfigError as ConfigError
from dno.errors import RunError as RunError
from dno.files import write_file as write_file
from dno.film import Film as Film
from dno.film import animation_of as animation_of
from dno.guard import out_of_memory as out_of_memory
from dno.media import IMAGE as IMAGE
from dno.media import Medium as Medium
from dno.media import pictures as pictures
from dno.media import thumbnails as thumbnails
from dno.protocols import CoarseMap as CoarseMap
from dno.protocols import Constraint as Constraint
from dno.protocols import Footprint as Footprint
from dno.protocols import Look as Look
from dno.protocols import NoiseMap as NoiseMap
from dno.protocols import Objective as Objective
from dno.protocols import Optimizer as Optimizer
from dno.protocols import Penalty as Penalty
from dno.protocols import Regularizer as Regularizer
from dno.protocols import Reward as Reward
from dno.protocols import Sampler as Sampler
from dno.protocols import Slopes as Slopes
from dno.protocols import State as State
from dno.registry.configs import BuildContext as BuildContext
from dno.registry.configs import ConstraintConfig as ConstraintConfig
from dno.registry.configs import ModelConfig as ModelConfig
from dno.registry.configs import ObserverConfig as ObserverConfig
from dno.registry.configs import OptimizerConfig as OptimizerConfig
from dno.registry.configs import Origin as Origin
from dno.registry.configs import PluginConfig as PluginConfig
from dno.registry.configs import RegularizerConfig as RegularizerConfig
from dno.registry.configs import RewardConfig as RewardConfig
from dno.registry.configs import SamplerConfig as SamplerConfig
from dno.registry.hearing import hearing as hearing
from dno.registry.loading import first_line as first_line
from dno.registry.loading import hub_is_offline as hub_is_offline
from dno.registry.loading import quiet as quiet
from dno.registry.models import find_model as find_model
from dno.registry.models import installed_model as installed_model
from dno.report.page import write_report as write_report
from dno.wording import clean as clean
from dno.wording import short as short
