"""RunConfig: everything that decides a run, from Python values, TOML or a command line."""

from __future__ import annotations

import contextlib
import difflib
import functools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticSerializationError

from dno.core.budget import Budget
from dno.core.gradients import GradientConfig
from dno.errors import ConfigError
from dno.paths import absolute, current_folder, user_path
from dno.registry.configs import (
    ConstraintConfig,
    ObserverConfig,
    OptimizerConfig,
    Origin,
    PluginConfig,
    RegularizerConfig,
    RewardConfig,
    SamplerConfig,
    lost_options,
)
from dno.registry.objects import live_class
from dno.registry.registry import (
    CONSTRAINTS,
    OBSERVERS,
    OPTIMIZERS,
    REGULARIZERS,
    REWARDS,
    SAMPLERS,
    Registry,
)
from dno.runs.config_files import LARGEST
from dno.runs.prompts import prompt_texts
from dno.runs.start import LIVE as LIVE
from dno.runs.start import Start, dump_start, start_of
from dno.wording import named, said, short

_log = logging.getLogger("dno")

OBJECT: Final = "python:"
"""What stands before the name of a Python object, where a file names a plugin."""
_KEY: Final = 60
"""Characters of a key that a message shows."""

C = TypeVar("C", bound=PluginConfig)
T = TypeVar("T")

FirstWrong = Annotated[tuple[T, ...], FailFast()]
"""Values of a kind, of which no more are looked at once one is wrong: only the first is told."""


def explain(error: ValidationError, model: type[BaseModel]) -> ConfigError:
    """The first thing that pydantic found wrong, as one sentence with its place."""
    first = error.errors()[0]
    inner = first.get("ctx", {}).get("error")
    # Of a value that may be of several types, pydantic also names the type that it tried:
    # `constrained-float`, `literal['a','b']`.
    unknown = first["type"] == "extra_forbidden"
    loc = [named(part, _KEY) for part in first["loc"]]
    at = ".".join(part for part in loc if unknown or not set("-[") & set(part))
    if isinstance(inner, ConfigError):
        return inner.inside(at)
    if unknown:
        *path, last = first["loc"]
        for part in path:
            model = next(_models(model.model_fields[str(part)].annotation))
        key, known = str(last), list(model.model_fields)
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return ConfigError(f"unknown option; {hint}known: {', '.join(known)}", at=at)
    if first["type"] == "missing":
        return ConfigError("is required", at=at)
    message = said(inner) if inner is not None else first["msg"][0].lower() + first["msg"][1:]
    return ConfigError(f"{named(message)}, got {short(first['input'])}", at=at)


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    """The models that a field's type is made of: itself, of a union, or annotated."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for inner in get_args(kind):
        yield from _models(inner)


def build_plugin_config(registry: Registry[C], value: object) -> C:
    """A validated plugin config from a name, a config, a live object, or a table with one as `use`
    and options.

    Raises:
        ConfigError: the table names no plugin, or has options that the plugin does not take.
    """
    options = dict(value) if isinstance(value, Mapping) else {"use": value}
    one, use = registry.kind.removesuffix("s"), options.pop("use", None)
    _refuse_live(options)
    if use is None:
        raise ConfigError(
            f'needs the name of a plugin of kind {one}, such as use = "NAME"', at="use"
        )
    cls: Any
    if isinstance(use, str):
        cls = registry.load(use)
    elif isinstance(use, registry.base):
        cls, options = type(use), {**dict(use), **options}
    else:
        cls, options = live_class(registry.base, use), {"part": use, **options}
    try:
        config: C = cls.model_validate(options)
    except ValidationError as error:
        raise explain(error, cls) from None
    for name in lost_options(cls):
        if getattr(config, name) is None:
            raise ConfigError(
                "cannot be None: a run's file holds none, and whoever goes on with it would take "
                f"the default, {short(cls.model_fields[name].default)}; its plugin's author must "
                "make None the default, or take a word instead",
                at=name,
            )
    return config


def is_live(value: object) -> bool:
    """Whether a value of a saved run stands for a Python object, which no file can hold."""
    return isinstance(value, Mapping) and list(value) == [LIVE]


def _refuse_live(options: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for an option that was a Python object when the run was saved."""
    for name, value in options.items():
        if is_live(value):
            raise ConfigError(
                f'was a Python object, "{named(value[LIVE])}"; run it again from Python',
                at=named(name, _KEY),
            )


def _dump(registry: Registry[C], config: C) -> dict[str, Any]:
    use = registry.name_of(config)
    if use is None:
        # What was set beside the object, such as its weight, is no object.
        options = config.model_dump(mode="json", exclude={"part"}, exclude_defaults=True)
        return {"use": f"{OBJECT}{registry.label(config)}", **options}
    try:
        options = config.model_dump(mode="json", exclude_none=True)
        _check_plain(options)
    # An option may be anything that its plugin takes, such as a callback.
    except (PydanticSerializationError, TypeError, ValueError, RecursionError):
        options = {}
        for name in type(config).model_fields:
            options |= dumped_option(config, name)
    return {"use": use, **options}


def dumped_option(config: PluginConfig, name: str) -> dict[str, Any]:
    """One option as a file can hold it; a Python object is only named."""
    try:
        option = config.model_dump(mode="json", exclude_none=True, include={name})
        _check_plain(option)
    except (PydanticSerializationError, TypeError, ValueError, RecursionError):
        value = getattr(config, name)
        label = getattr(value, "__name__", type(value).__name__)
        return {name: {LIVE: named(label, _KEY)}}
    return option


def _check_plain(options: Mapping[str, Any]) -> None:
    """Raise one of several errors for what no TOML file can hold."""
    tomli_w.dumps(dict(options)).encode()


def _parser(registry: Registry[C]) -> BeforeValidator:
    return BeforeValidator(lambda value: build_plugin_config(registry, value))


def _dumper(registry: Registry[C]) -> PlainSerializer:
    # Pydantic's own ways of dumping a subclass lose the name that loads it again.
    return PlainSerializer(lambda config: _dump(registry, config))


def dump_part(registry: Registry[C], value: object) -> dict[str, Any]:
    """A part of any of the forms that `build_plugin_config` takes, as `RunConfig.dump` has it.

    Raises:
        ConfigError: see `build_plugin_config`.
    """
    return _dump(registry, build_plugin_config(registry, value))


def _default(value: Any) -> Any:
    # Names, which validation turns into configs: importing this module must not import plugins.
    return Field(value)


BLACK_BOX: Final = {"use": "local-search", "beta": 0.6}
"""The optimizer of a run that names none, and no `gradient`, where no reward has a gradient: what
gained most for as many reward calls (docs/how-to/rewards-without-a-gradient.md)."""


def are_black_boxes(rewards: object) -> bool:
    """Whether the rewards that are climbed have no gradient; False where that cannot be told.

    Args:
        rewards: what a configuration holds, or what one is made of.
    """
    parts = rewards if isinstance(rewards, (list, tuple)) else [rewards]
    try:
        configs = [build_plugin_config(REWARDS, part) for part in parts]
    except ConfigError:
        # A mistake, which the field itself will tell.
        return False
    climbed = [config for config in configs if config.weight]
    return bool(climbed) and not any(config.differentiable for config in climbed)


class WarmStart(BaseModel):
    """An optimizer that runs before the main one, which then starts at the best noise that was
    found.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    optimizer: Annotated[OptimizerConfig, _parser(OPTIMIZERS), _dumper(OPTIMIZERS)]
    """How to search."""
    iterations: Annotated[int, Field(ge=1)]
    """Its steps, beside those of the run."""


Seed = Annotated[int, Field(ge=0, lt=2**64)]


class RunConfig(BaseModel):
    """Everything that decides what a run computes. The docstring under a field is its help text."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )

    prompts: Annotated[FirstWrong[str], Field(min_length=1), BeforeValidator(prompt_texts)]
    """What to draw; every prompt is drawn from every seed."""
    seeds: Annotated[FirstWrong[Seed], Field(min_length=1)] = (0,)
    """Seeds of the starting noise, meaning what `torch.Generator("cpu").manual_seed(seed)` means to
    diffusers."""
    iterations: Annotated[int, Field(ge=0)] = 15
    """Optimizer steps."""
    budget: Budget = Budget()
    """What may be spent; the first limit that is met stops the run."""
    start: Annotated[
        Start | None,
        PlainValidator(start_of),
        PlainSerializer(dump_start),
    ] = None
    """A run folder, or a file such as its `noise.safetensors`, whose best noise is where to start;
    or a picture, from noise that the sampler draws it from. In Python also a result or one of its
    snapshots, noise, or a picture of Pillow. The seeds' own noise if not given."""
    warm_start: WarmStart | None = None
    """A search before the first iteration, such as best-of-n."""
    coarse: tuple[Annotated[int, Field(ge=1)], ...] | Literal["auto"] = "auto"
    """Denoising steps of the coarser grids to climb on first, fewest first, such as 10; each is a
    part of the sampler's own grid. The iterations are shared among them, and the noise is handed
    back to the sampler's own grid in the end. `auto`: of 10 steps or a few more where the sampler
    takes 30 or more and can be thinned so, and the optimizer is one that constraints hold; an empty
    list: none."""
    repair: Annotated[int, Field(ge=0)] = 5
    """Iterations on the sampler's own grid, at most, for samples whose coarse gain was lost when
    noise was handed back."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """The gradient of each sample's whole noise is scaled down to this norm where it is longer."""
    log_p_floor: Annotated[float, Field(le=0)] = -4.6
    """Natural log of P(z) (-4.6: 1 %) below which noise counts as having left N(0, I), and cannot
    be a run's best; -inf lets any be."""
    p_floor: Annotated[float, Field(ge=0, le=1)] = 1e-4
    """The same for the reported p-values that no constraint keeps as they were: the least of them
    times their number. 0 leaves them out."""
    gradient: GradientConfig = GradientConfig()
    """How rewards that have no gradient are climbed."""
    device: str = "auto"
    """Where to compute: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto` for the first GPU if there is
    one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    """What the denoising networks and the text encoders compute in; noise and sampler stay float32
    or better. `auto`: float32, but a pipeline that is loaded already computes in its own."""
    tf32: bool = False
    """Whether a GPU may compute products and convolutions of float32 in TF32, with 10 bits behind
    the point: networks, decoder and rewards, while the run goes on. Off: as the process has it,
    which in torch's own state is convolutions alone."""
    sampler: Annotated[SamplerConfig, _parser(SAMPLERS), _dumper(SAMPLERS)] = _default("ddim")
    """How noise becomes an image."""
    rewards: Annotated[
        FirstWrong[Annotated[RewardConfig, _parser(REWARDS), _dumper(REWARDS)]], Field(min_length=1)
    ]
    """What to climb: the weighted sum of these."""
    monitors: FirstWrong[Annotated[RewardConfig, _parser(REWARDS), _dumper(REWARDS)]] = ()
    """Rewards that are evaluated beside and never optimised: held-out judges of the result."""
    spread: Annotated[int, Field(ge=0)] = 0
    """Where 2 or more: each reward is divided by its standard deviation over this many plain
    samples of its prompt, so that weights compare rewards of different units; 0 leaves them as they
    are."""
    regularizers: FirstWrong[
        Annotated[RegularizerConfig, _parser(REGULARIZERS), _dumper(REGULARIZERS)]
    ] = ()
    """What holds the noise in N(0, I) by its price: their weighted sum is taken off the
    objective."""
    reports: FirstWrong[
        Annotated[RegularizerConfig, _parser(REGULARIZERS), _dumper(REGULARIZERS)]
    ] = _default(("gaussianity",))
    """Regularizers whose figures are reported at each iteration, whatever holds the noise; their
    penalties count for nothing."""
    constraints: FirstWrong[
        Annotated[ConstraintConfig, _parser(CONSTRAINTS), _dumper(CONSTRAINTS)]
    ] = _default(("shell",))
    """What puts noise back where N(0, I) puts it, one after the other."""
    optimizer: Annotated[OptimizerConfig, _parser(OPTIMIZERS), _dumper(OPTIMIZERS)] = _default(
        "ascent"
    )
    """How to climb; where no reward has a gradient and neither this nor `gradient` is given,
    `local-search` with a `beta` of 0.6."""
    observers: FirstWrong[Annotated[ObserverConfig, _parser(OBSERVERS), _dumper(OBSERVERS)]] = (
        _default(("curve", "frames", "report"))
    )
    """What looks on: progress, image dumps, the report, trackers."""
    metadata: bool = True
    """Whether PNG pictures carry how they were made: prompt and settings as other programs read
    them, the item's configuration, which `--from` repeats, and that a model drew them."""

    @model_validator(mode="before")
    @classmethod
    def _suited_to_the_rewards(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or {"optimizer", "gradient"} & values.keys():
            return values
        if not are_black_boxes(values.get("rewards")):
            return values
        return {**values, "optimizer": dict(BLACK_BOX)}

    @field_validator(
        "prompts",
        "seeds",
        "rewards",
        "monitors",
        "regularizers",
        "constraints",
        "reports",
        "observers",
        mode="before",
    )
    @classmethod
    def _one_is_a_list_of_one(cls, value: object) -> object:
        one = isinstance(value, (str, int, Mapping, PluginConfig)) and not isinstance(value, bool)
        return (value,) if one else value

    @field_validator("coarse", mode="before")
    @classmethod
    def _one_grid(cls, value: object) -> object:
        return (value,) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("coarse")
    @classmethod
    def _fewest_first(cls, coarse: tuple[int, ...] | str) -> tuple[int, ...] | str:
        if isinstance(coarse, tuple) and list(coarse) != sorted(set(coarse)):
            raise ValueError("should be different numbers of steps, the fewest first")
        return coarse

    @classmethod
    def parse(
        cls, values: Mapping[str, Any], sources: Mapping[str, str] | None = None
    ) -> RunConfig:
        """Validate plain values, such as a TOML file's.

        Args:
            values: the fields by name.
            sources: where values came from, by their dotted place ("" for all others), for
                messages.

        Raises:
            ConfigError: one sentence with the value's source and place.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problem = explain(error, cls)
        places = [
            p for p in sources or {} if problem.at == p or not p or problem.at.startswith(f"{p}.")
        ]
        raise problem.inside("", sources[max(places, key=len)] if sources and places else "")

    def items(self) -> tuple[tuple[str, int], ...]:
        """The (prompt, seed) of each sample, prompts outermost."""
        return tuple((prompt, seed) for prompt in self.prompts for seed in self.seeds)

    def dump(self) -> dict[str, Any]:
        """Plain values that `parse` turns into an equal configuration, and that TOML can hold.

        A component that is a Python object, published by no entry point, is only named.
        """
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> bytes:
        """What `run.toml` holds.

        Raises:
            ConfigError: no file can hold a value, or all of them.
        """
        values = self.dump()
        try:
            text = tomli_w.dumps(values).encode()
        except (TypeError, ValueError, RecursionError) as error:
            at = next((name for name, value in values.items() if not _fits_toml(value)), "")
            raise ConfigError(f"cannot be written to a file: {said(error)}", at=at) from None
        if len(text) > LARGEST:
            raise ConfigError(
                f"its run.toml would be larger than {LARGEST // 2**20} MB; give fewer prompts",
                at="prompts",
            )
        return text

    def located(self, base: Path) -> RunConfig:
        """The same with every path that it names written from the root.

        Args:
            base: where relative paths start.

        Raises:
            ConfigError: a path cannot be one here.
        """
        changes: dict[str, Any] = {}
        if isinstance(self.start, Path):
            changes["start"] = absolute(user_path(self.start, at="start"), base)
        origin = Origin(base)
        for field in type(self).model_fields:
            value = getattr(self, field)
            if isinstance(value, PluginConfig):
                changes[field] = _located_part(value, origin, field)
            elif isinstance(value, tuple) and any(isinstance(p, PluginConfig) for p in value):
                changes[field] = tuple(
                    _located_part(part, origin, f"{field}.{i}") for i, part in enumerate(value)
                )
        if self.warm_start is not None:
            first = _located_part(self.warm_start.optimizer, origin, "warm_start.optimizer")
            changes["warm_start"] = self.warm_start.model_copy(update={"optimizer": first})
        changes = {name: value for name, value in changes.items() if value != getattr(self, name)}
        return self.model_copy(update=changes) if changes else self


def _fits_toml(value: Any) -> bool:
    try:
        tomli_w.dumps({"value": value}).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _located_part(config: C, origin: Origin, place: str) -> C:
    options = {name: getattr(config, name) for name in type(config).model_fields}
    try:
        changed = config.located(options, origin)
    except ConfigError as error:
        raise error.inside(place) from None
    moved = {name: value for name, value in changed.items() if value is not options.get(name)}
    return config.model_copy(update=moved) if moved else config


def put(values: dict[str, Any], place: str, value: Any) -> None:
    """Set the value at a dotted place such as `rewards.0.weight`, making tables as needed.

    Raises:
        ConfigError: the place leads through something that is no table or list, or past a list's
            end.
    """
    here: Any = values
    *path, last = place.split(".")
    try:
        for key in path:
            here = here[int(key)] if isinstance(here, list) else here.setdefault(key, {})
        here[int(last) if isinstance(here, list) else last] = value
    except (AttributeError, IndexError, TypeError, ValueError):
        raise ConfigError(
            f"leads nowhere for {short(last, _KEY)}; lists count from 0, as rewards.0.weight",
            at=named(place),
        ) from None


def located(values: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Plain values of a file, with the paths in them written from the root.

    A path that leads nowhere from `base`, and somewhere from the current folder, is taken from
    there, as runs of earlier versions need it, and that is said.

    Args:
        values: what the file holds, valid or not: what is wrong with it is told by `parse`.
        base: the folder that the file is in, where its relative paths start.
    """
    found = dict(values)
    base = current_folder() / base
    if isinstance(found.get("start"), str):
        # What cannot be a path is told by `parse` and `located`, with its place.
        with contextlib.suppress(ConfigError):
            found["start"] = str(Origin(base, _from_file).path(found["start"]))
    for field, registry in PART_REGISTRIES.items():
        parts = found.get(field)
        if isinstance(parts, list):
            found[field] = [_located_table(registry, part, base) for part in parts]
        elif parts is not None:
            found[field] = _located_table(registry, parts, base)
    return found


PART_REGISTRIES: Final[Mapping[str, Registry[Any]]] = {
    "sampler": SAMPLERS,
    "rewards": REWARDS,
    "monitors": REWARDS,
    "regularizers": REGULARIZERS,
    "reports": REGULARIZERS,
    "constraints": CONSTRAINTS,
    "optimizer": OPTIMIZERS,
    "observers": OBSERVERS,
}


def _located_table(registry: Registry[Any], part: Any, base: Path) -> Any:
    if not isinstance(part, Mapping) or not isinstance(part.get("use"), str):
        return part
    try:
        cls = registry.load(part["use"])
        return cls.located(part, Origin(base, _from_file))
    # Told by whoever parses the values, with their place.
    except ConfigError:
        return part


def _from_file(path: Path, base: Path) -> Path:
    """A path in a file of that folder, from the root."""
    beside = absolute(path, base)
    here = absolute(path, current_folder())
    if here == beside or beside.exists() or not here.exists():
        return beside
    _tell_of(named(path), named(base))
    return here


@functools.cache
def _tell_of(path: str, base: str) -> None:
    """Say once that a path was found where its file is not."""
    _log.warning(
        "%s is not in %s, where the file is that names it; the one in the current folder is taken",
        path,
        base,
    )
