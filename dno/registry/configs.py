"""Options of plugins: validated values that build the thing they configure."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from dno.errors import ConfigError
from dno.paths import absolute, user_path
from dno.registry.discovery import usable

if TYPE_CHECKING:
    import torch

    from dno.protocols import Constraint, Optimizer, Regularizer, Reward, Sampler


@dataclass(frozen=True)
class BuildContext:
    """What a run hands to every component it builds."""

    device: torch.device
    """Where models and noise live."""
    dtype: torch.dtype
    """What large networks compute in; noise, rewards and penalties stay float32."""
    draws: Sequence[tuple[int, ...]] = ()
    """Shape of each moving draw in a row of noise, in order; empty while the sampler itself is
    built."""
    weightless: bool = False
    """Whether what is built is only planned with: its weights are to be shapes, made in
    `dno.plugin.without_weights`, and no file of weights is needed. For configurations that say
    `weightless = True`; others are not built for a plan."""
    dtype_chosen: bool = True
    """Whether somebody chose that; where not, what is loaded already computes in its own."""


@dataclass(frozen=True)
class Origin:
    """Where relative paths of a configuration start."""

    folder: Path
    absolute: Callable[[Path, Path], Path] = absolute
    """What makes a path absolute that starts at a folder."""

    def path(self, given: str | Path) -> Path:
        """A path from the root, with `~` expanded.

        Raises:
            ConfigError: it cannot be a path here.
        """
        return self.absolute(user_path(given), self.folder)

    def name(self, given: str) -> str:
        """What may be a path, a hub id or the name of an installed model: where a folder or file
        is there, its path from the root; else as it was given.

        Raises:
            ConfigError: it cannot be a path here.
        """
        installed = any(given in (info.name, info.qualified) for info in usable())
        if installed or not given:
            return given
        path = user_path(given)
        whole = self.path(given)
        is_path = path != Path(given) or path.is_absolute() or whole.exists()
        return str(whole) if is_path else given


class PluginConfig(BaseModel):
    """Options of one plugin. The docstring under a field is its help text.

    Importing the module that defines a config must stay cheap: import torch and the like inside
    `check` and `build`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    personal: ClassVar[frozenset[str]] = frozenset()
    """Options that are nobody else's business, or nobody else's to decide: a server's address, the
    name of a key. Pictures do not carry them, and none that was sent sets them."""

    @model_validator(mode="before")
    @classmethod
    def _paths_as_text(cls, values: Any) -> Any:
        """Where a name is wanted that may be a path, take the path too."""
        if not isinstance(values, Mapping):
            return values
        return {
            name: _as_text(value) if _takes_text(name, cls.model_fields.get(name)) else value
            for name, value in values.items()
        }

    def check(self) -> None:
        """Raise `ConfigError` for what is certain to fail in `build` (a missing folder, say).

        Called for every component of a run before any of them is built, so it must be quick.
        """

    @classmethod
    def located(cls, options: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """Options of this plugin, with the paths in them written from the root.

        So a saved run names the same files wherever it is resumed from. Here these are the options
        of type `Path`, and `model` where it names a folder or file that is there; a plugin with
        other options that name files adds them.

        Args:
            options: by name, validated or not.
            origin: where relative paths start.

        Raises:
            ConfigError: a path cannot be one here.
        """
        found = dict(options)
        for name, field in cls.model_fields.items():
            if name not in found:
                continue
            try:
                if _holds_paths(field.annotation):
                    found[name] = _each_located(found[name], origin)
                elif name == "model" and isinstance(found[name], str):
                    found[name] = origin.name(found[name])
            except ConfigError as error:
                raise error.inside(name) from None
        return found


def lost_options(cls: type[BaseModel]) -> list[str]:
    """Options that may be None where None is not their default.

    A file of options has no None, so that whoever reads it would take the default.
    """
    return [
        name
        for name, field in cls.model_fields.items()
        if not field.is_required()
        and _mentions(field.annotation, type(None))
        and field.default is not None
        and field.default_factory is None
    ]


def _takes_text(name: str, field: FieldInfo | None) -> bool:
    return name == "model" or (field is not None and _mentions(field.annotation, str))


def _mentions(annotation: Any, kind: type) -> bool:
    """Whether a type is this one, or a choice or sequence of it."""
    return annotation is kind or any(_mentions(inner, kind) for inner in get_args(annotation))


def _as_text(value: Any) -> Any:
    """Paths as text, in a list too; anything else as it is."""
    if isinstance(value, PurePath):
        return str(value)
    # Other kinds of sequences are made in ways of their own.
    if type(value) in (list, tuple):
        return type(value)(map(_as_text, value))
    return value


def _holds_paths(annotation: Any) -> bool:
    """Whether a type is `Path`, or a choice or sequence of paths."""
    return _mentions(annotation, Path)


def _each_located(value: Any, origin: Origin) -> Any:
    if isinstance(value, Path):
        return origin.path(value)
    if isinstance(value, str):
        return str(origin.path(value))
    if isinstance(value, (list, tuple)):
        return type(value)([_each_located(one, origin) for one in value])
    return value


class SamplerConfig(PluginConfig):
    """Base of sampler options."""

    weightless: ClassVar[bool] = False
    """Whether `build` minds `BuildContext.weightless`, and what it builds can be bound then; its
    bound maps have a `footprint`."""

    def resumed(self) -> Self:
        """The options for a run that goes on, whose noise is known; the same unless overridden."""
        return self

    @abstractmethod
    def build(self, ctx: BuildContext) -> Sampler:
        """The sampler, its weights frozen and on `ctx.device`."""


class RewardConfig(PluginConfig):
    """Base of reward options."""

    differentiable: ClassVar[bool] = True
    """False where the reward has no gradient; then one is estimated, see `dno.core.gradients`."""
    judges: ClassVar[Literal["image", "video", "audio"] | None] = None
    """Kind of samples that the reward takes, where it says so: samples of another kind are then an
    error, but for a video, which a reward of images judges frame by frame. None: it takes samples
    as they come."""

    weightless: ClassVar[bool] = False
    """Whether `build` minds `BuildContext.weightless`; so does one that has no weights."""

    weight: float = 1.0
    """Factor of this reward in the objective; 0 reports it without optimising it."""
    frames: Literal["all", "first", "middle", "last"] | int | None = None
    """Of a video, the frames that a reward of images judges: the mean over `all` of them, one by
    name, or one by number, from 0, from the end if negative. If not given: all for a reward that
    says that it judges images; others take the video as it is."""

    @abstractmethod
    def build(self, ctx: BuildContext) -> Reward:
        """The reward, ready to be called."""


class RegularizerConfig(PluginConfig):
    """Base of regularizer options."""

    weight: Annotated[float, Field(ge=0)] | Literal["auto"] = 1.0
    """Factor of this penalty in the objective (gamma); 0 reports its figures without applying it;
    `auto` starts at 0.01, rises for each sample whose log P is below `log_p_target`, and falls
    where it is above."""
    log_p_target: float = Field(default=-3.0, le=0)
    """What a weight of `auto` holds log P at."""

    @abstractmethod
    def build(self, ctx: BuildContext) -> Regularizer:
        """The regularizer, ready to be called."""


class ConstraintConfig(PluginConfig):
    """Base of constraint options."""

    every: Annotated[int, Field(ge=0)] = 1
    """Steps from one time that noise is put back to the next; 0: once, after the last step."""

    @abstractmethod
    def build(self, ctx: BuildContext) -> Constraint:
        """The constraint, ready to be asked."""


class OptimizerConfig(PluginConfig):
    """Base of optimizer options."""

    constrained: ClassVar[bool] = True
    """Whether constraints put its noise back; False for methods that draw from N(0, I) afresh."""

    def on_coarser(self, factor: float) -> Self:
        """The options for a grid of `factor` times fewer steps; the same unless overridden."""
        return self

    @abstractmethod
    def build(self, ctx: BuildContext) -> Optimizer:
        """The optimizer, ready to be called."""


class ObserverConfig(PluginConfig):
    """Base of observer options."""

    essential: bool = False
    """Whether the run fails where this observer does; if not, that is told once, and the run goes
    on without it."""

    @abstractmethod
    def build(self, ctx: BuildContext) -> object:
        """An object with methods marked by `dno.plugin.hookimpl`; events: `dno.core.events`."""


class ModelConfig(PluginConfig):
    """Base of models that come with a distribution and so can be asked for by name."""

    @abstractmethod
    def folder(self) -> Path:
        """Folder of the weights, in the layout that `from_pretrained` reads."""
