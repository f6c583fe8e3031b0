"""The options that people set most, as the command line and `dno.optimize` spell them.

One entry of a table below is all there is to an option: its type, what it means, and where its
value goes. The parameters of `dno optimize`, its help, the messages and the reference page are
made from these entries.
"""

# The command line reads the tables before it knows what was asked for, so that importing this
# module must not import pydantic: what needs it is imported where it is used.

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    TypeAlias,
    TypedDict,
    get_args,
    get_type_hints,
)

from dno.errors import ConfigError, DNOError
from dno.runs.spellings import (
    first_seed,
    grids,
    listed,
    named_or_none,
    number_or_word,
    seeds_from_the_first,
    warm_start_table,
    weighted,
    weighted_or_none,
)
from dno.wording import named

if TYPE_CHECKING:
    from dno.runs.draft import Draft
    from dno.runs.run_config import RunConfig

ARGUMENTS: Final = ("reward", "monitor", "regularizer", "constraint", "sampler", "optimizer")
"""Parts that are arguments of `dno.optimize`, for those who misspell them there."""
COMMAND_LINE_OBSERVERS: Final = ("progress", "curve", "frames", "report")
"""What looks on at a run of the command line. In Python it is what `RunConfig` has."""
REPORTING: Final = ("frames", "report")
"""Those of them that a run without a report goes without."""


class Group(StrEnum):
    """Headings that help puts options under, in this order."""

    DRAW = "What to draw"
    CLIMB = "What to climb"
    MODEL = "What draws it"
    METHOD = "How to climb"
    STOP = "When to stop"
    KEEP = "Where it runs, and what is kept"
    REST = "Anything else"


PAPER: Final = {
    "optimizer": {"use": "adam", "lr": 0.01},
    "regularizers": [{"use": "permutation", "weight": 1.0}],
    "constraints": [],
    "coarse": (),
    "iterations": 30,
    "max_grad_norm": 1.0,
    "p_floor": 0.0,
    "gradient.method": "hybrid-2",
    "gradient.size": 0.01,
    "gradient.baseline": "start",
}
"""How Direct Noise Optimization was published to climb (Tang et al., ICML 2025, arXiv 2405.18881)
and what their code does where the paper is silent; its sampler, DDIM of 50 steps at eta 1 with
guidance 5, is the default one."""

Read: TypeAlias = Callable[[Any, Any], Any]
"""Turns what was given, and what is at its place so far, into what to put there."""


def _as_given(value: Any, before: Any) -> Any:
    return value


def _as_held(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Shorthand:
    """All that is known of an option, besides its name and its type."""

    place: str
    """Where its value goes: a dotted place in a configuration, `*` standing for each of a list."""
    group: Group
    help: str
    metavar: str | None = None
    """What help calls its value, where that is more than the type."""
    names: str | None = None
    """Kind of the plugins whose names it takes."""
    read: Read = _as_given
    """How what was given becomes what the configuration holds."""
    adds: bool = False
    """Whether its values go behind those at the place, and not instead of them."""
    tell: Callable[[Any], Any] = _as_held
    """How what the configuration holds is told as a value of this option."""
    such_as: str = ""
    """A choice of plugin that this option is one of, for those who chose another or none."""
    has_opposite: bool = False
    """Of a switch: whether the command line also takes its `--no-NAME`."""
    preset: Mapping[str, Any] | None = None
    """Of a switch: what goes where, by dotted place, before all other options."""
    name: str = ""
    """Its name in the table."""
    type: Any = None
    """Its type in the table."""

    def spelled(self, *, command_line: bool) -> str:
        """The option as people write it: `--guidance-scale`, or `guidance_scale` in Python."""
        return f"--{self.name.replace('_', '-')}" if command_line else self.name


class Options(TypedDict, total=False):
    """What the command line and `dno.optimize` have in common; None leaves it at its default."""

    # Before `batch`, which counts on from it.
    seed: Annotated[
        int | None,
        Shorthand(
            "seeds",
            Group.DRAW,
            "First seed, meaning what a CPU generator so seeded means to diffusers.",
            read=first_seed,
            tell=lambda seeds: listed(seeds)[0],
        ),
    ]
    batch: Annotated[
        int | str | None,
        Shorthand(
            "seeds",
            Group.DRAW,
            "Samples per prompt, from SEED, SEED + 1, ...",
            metavar="N",
            read=seeds_from_the_first,
            tell=lambda seeds: len(listed(seeds)),
        ),
    ]
    negative_prompt: Annotated[
        str | None,
        Shorthand(
            "sampler.negative_prompt", Group.DRAW, "What to guide away from.", metavar="TEXT"
        ),
    ]
    start: Annotated[
        Any,
        Shorthand(
            "start",
            Group.DRAW,
            "Run folder, file of noise, or picture to start from, not the seeds' own noise.",
            metavar="PATH",
        ),
    ]
    image: Annotated[
        Any,
        Shorthand(
            "sampler.image",
            Group.DRAW,
            "Picture to start from: redrawn, edited, or repainted where there is a mask.",
            metavar="FILE",
        ),
    ]
    mask: Annotated[
        Any,
        Shorthand(
            "sampler.mask",
            Group.DRAW,
            "What of the picture to repaint: white is painted anew.",
            metavar="FILE",
        ),
    ]
    strength: Annotated[
        float | None,
        Shorthand(
            "sampler.strength",
            Group.DRAW,
            "How far the picture may change, up to 1.",
        ),
    ]
    control_image: Annotated[
        Any,
        Shorthand(
            "sampler.control_image",
            Group.DRAW,
            "What a ControlNet is led by: edges, depth, a pose.",
            metavar="FILE",
        ),
    ]
    gamma: Annotated[
        float | str | None,
        Shorthand(
            "regularizers.*.weight",
            Group.CLIMB,
            "Weight of every regularizer, or auto to hold log P at a target.",
            metavar="WEIGHT",
            read=number_or_word,
            such_as="the regularizer permutation",
        ),
    ]
    model: Annotated[
        Any,
        Shorthand(
            "sampler.model",
            Group.MODEL,
            "Installed model, folder or hub id; in Python also a loaded pipeline.",
            metavar="MODEL",
            names="models",
        ),
    ]
    lora: Annotated[
        list[str] | None,
        Shorthand(
            "sampler.loras",
            Group.MODEL,
            "LoRA weights to merge into the model; repeatable.",
            metavar="PATH[=STRENGTH]",
        ),
    ]
    embedding: Annotated[
        list[str] | None,
        Shorthand(
            "sampler.embeddings",
            Group.MODEL,
            "Textual inversion, a word for prompts to use; repeatable.",
            metavar="PATH[=WORD]",
        ),
    ]
    long_prompts: Annotated[
        bool | None,
        Shorthand(
            "sampler.long_prompts",
            Group.MODEL,
            "Read prompts longer than CLIP takes piece by piece, and cut nothing off.",
        ),
    ]
    controlnet: Annotated[
        str | None,
        Shorthand(
            "sampler.controlnet",
            Group.MODEL,
            "ControlNet to put beside the model: folder or hub id.",
            metavar="MODEL",
        ),
    ]
    steps: Annotated[
        int | None,
        Shorthand("sampler.steps", Group.MODEL, "Denoising steps, `num_inference_steps`."),
    ]
    height: Annotated[
        int | None,
        Shorthand("sampler.height", Group.MODEL, "Height of the images in pixels."),
    ]
    width: Annotated[
        int | None,
        Shorthand("sampler.width", Group.MODEL, "Width of the images in pixels."),
    ]
    last_steps: Annotated[
        int | None,
        Shorthand("sampler.last_steps", Group.MODEL, "Move the noise of so many last steps alone."),
    ]
    eta: Annotated[
        float | None,
        Shorthand(
            "sampler.eta",
            Group.MODEL,
            "Noise that each step adds, from 0 (ODE) to 1 (SDE with DDPM's variance).",
        ),
    ]
    guidance_scale: Annotated[
        float | None,
        Shorthand("sampler.guidance_scale", Group.MODEL, "Weight of classifier-free guidance."),
    ]
    paper: Annotated[
        bool | None,
        Shorthand(
            "optimizer",
            Group.METHOD,
            "Climb as the paper does: Adam on reward less penalty, on all steps.",
            preset=PAPER,
        ),
    ]
    lr: Annotated[
        float | None,
        Shorthand(
            "optimizer.lr",
            Group.METHOD,
            "The optimizer's step size.",
            such_as="the optimizer adam",
        ),
    ]
    coarse: Annotated[
        int | str | None,
        Shorthand(
            "coarse",
            Group.METHOD,
            "Climb on a grid of so many steps first, such as 10, or 10,25 for two; auto; or none.",
            metavar="STEPS",
            read=grids,
        ),
    ]
    warm_start: Annotated[
        str | None,
        Shorthand(
            "warm_start",
            Group.METHOD,
            "Search that comes first: best-of-8, or NAME=COUNT for another optimizer's steps.",
            metavar="SEARCH",
            read=warm_start_table,
        ),
    ]
    iterations: Annotated[
        int | None,
        Shorthand("iterations", Group.STOP, "Optimizer steps."),
    ]
    seconds: Annotated[
        float | None,
        Shorthand("budget.seconds", Group.STOP, "Stop after this much wall-clock time."),
    ]
    target: Annotated[
        float | None,
        Shorthand("budget.target", Group.STOP, "Stop when the weighted rewards reach this."),
    ]
    device: Annotated[
        str | None,
        Shorthand(
            "device",
            Group.KEEP,
            "cpu, cuda, cuda:1, mps, or auto for the first GPU if there is one.",
            metavar="DEVICE",
        ),
    ]
    dtype: Annotated[
        str | None,
        Shorthand(
            "dtype",
            Group.KEEP,
            "What the denoising network computes in: float32, bfloat16, float16; auto: float32.",
            metavar="DTYPE",
        ),
    ]
    memory: Annotated[
        float | str | None,
        Shorthand(
            "sampler.memory",
            Group.KEEP,
            "What the run may take of memory, such as 20GiB; auto; keep; or recompute.",
            metavar="SIZE",
        ),
    ]
    metadata: Annotated[
        bool | None,
        Shorthand(
            "metadata",
            Group.KEEP,
            "Whether PNG pictures carry prompt, settings and what repeats them.",
            has_opposite=True,
        ),
    ]


class CommandLine(TypedDict, total=False):
    """What is chosen by name on the command line; in Python each is an argument of its own."""

    reward: Annotated[
        list[str] | None,
        Shorthand(
            "rewards",
            Group.CLIMB,
            "What to climb; repeatable. A weight of 0 only reports it.",
            metavar="NAME[=WEIGHT]",
            names="rewards",
            read=weighted,
        ),
    ]
    monitor: Annotated[
        list[str] | None,
        Shorthand(
            "monitors",
            Group.CLIMB,
            "Reward to report and never climb; repeatable.",
            metavar="NAME",
            names="rewards",
        ),
    ]
    regularizer: Annotated[
        list[str] | None,
        Shorthand(
            "regularizers",
            Group.CLIMB,
            "What keeps noise Gaussian; repeatable; or none.",
            metavar="NAME[=WEIGHT]",
            names="regularizers",
            read=weighted_or_none,
        ),
    ]
    sampler: Annotated[
        str | None,
        Shorthand(
            "sampler.use",
            Group.MODEL,
            "How noise becomes an image.",
            metavar="NAME",
            names="samplers",
        ),
    ]
    optimizer: Annotated[
        str | None,
        Shorthand(
            "optimizer",
            Group.METHOD,
            "What moves the noise, by its gradient or by search.",
            metavar="NAME",
            names="optimizers",
        ),
    ]
    constraint: Annotated[
        list[str] | None,
        Shorthand(
            "constraints",
            Group.METHOD,
            "What puts noise back where N(0, I) puts it; repeatable; or none.",
            metavar="NAME",
            names="constraints",
            read=named_or_none,
        ),
    ]
    observer: Annotated[
        list[str] | None,
        Shorthand(
            "observers",
            Group.KEEP,
            "What looks on, besides the usual; repeatable.",
            metavar="NAME",
            names="observers",
            adds=True,
        ),
    ]


@functools.cache
def entries(table: type) -> Mapping[str, Shorthand]:
    """The options of one of the tables above, by name."""
    found = {}
    for name, hint in get_type_hints(table, include_extras=True).items():
        kind, about = get_args(hint)
        found[name] = replace(about, name=name, type=kind)
    return found


def known_options(*, command_line: bool) -> Mapping[str, Shorthand]:
    """Every option that can be given, by name."""
    if command_line:
        return {**entries(CommandLine), **entries(Options)}
    return entries(Options)


def assemble(
    values: Mapping[str, Any],
    options: Mapping[str, object],
    settings: Sequence[tuple[str, Any]] = (),
    *,
    source: str = "",
    command_line: bool = False,
    local: Mapping[str, str] | None = None,
) -> RunConfig:
    """A validated configuration from plain values, options over them, and settings over those.

    Args:
        values: a configuration's fields; components may be config objects.
        options: see `Options`; on the command line also `CommandLine`.
        settings: (dotted place, value) pairs.
        source: where `values` came from, for messages.
        command_line: whether messages should call options `--lr` rather than `lr`.
        local: what options are called elsewhere, by dotted place, that have to be given here.

    Raises:
        ConfigError: one sentence with the source and place of the first thing wrong.
    """
    from dno.runs.draft import Draft

    draft = Draft(values, source)

    known = known_options(command_line=command_line)
    for name in options:
        if name not in known:
            arguments = () if command_line else ARGUMENTS
            raise ConfigError(f"unknown option; {_near(name, list(known), arguments)}", source=name)

    given = [option for name, option in known.items() if options.get(name) is not None]
    # Whole parts go before what is inside them, so that lr is the chosen optimizer's.
    given.sort(key=lambda option: (option.preset is None, option.place.count(".")))
    for option in given:
        if option.preset is not None:
            # In Python the values are arguments that stand beside the switch, and not a file below.
            kept = () if command_line else tuple(values)
            put_preset(draft, option, kept, switched_on=bool(options[option.name]))
        else:
            put_option(draft, option, options[option.name], command_line=command_line)

    for place, value in settings:
        draft.put(place, value, "--set" if command_line else "settings")
    for place, called in (local or {}).items():
        if not draft.was_put(place):
            way = _way_to_give(place, known, command_line=command_line)
            raise ConfigError(_to_be_named(called, way), source=source, at=named(place))
    return draft.parse()


def _way_to_give(place: str, known: Mapping[str, Shorthand], *, command_line: bool) -> str:
    """How to give what is at a place."""
    for option in known.values():
        if option.place == place:
            spelled = option.spelled(command_line=command_line)
            return f"{spelled} ..." if command_line else f"{spelled}=..."
    shown = named(place)
    return f"--set {shown}=..." if command_line else f'settings={{"{shown}": ...}}'


def _to_be_named(called: str, way: str) -> str:
    what = f'"{named(called)}"' if called else "something"
    return (
        f"was {what} where the picture was made, and nothing here is read or asked that you do not "
        f"name; name yours: {way}"
    )


def put_option(draft: Draft, option: Shorthand, value: object, *, command_line: bool) -> None:
    """Put an option's value where it goes.

    Raises:
        ConfigError: the value cannot be read, or its place leads nowhere.
    """
    source = option.spelled(command_line=command_line)
    places = list(draft.each(option.place))
    if not places and option.read(value, None):
        field = option.place.partition(".")[0]
        raise ConfigError(
            f"the run has no {field} that this could be set of; name one, such as {option.such_as}",
            source=source,
        )

    for place in places:
        _check_it_is_taken(draft, option, place, source)
        try:
            read = option.read(value, draft.at(place))
        except ConfigError as error:
            raise error.inside("", source) from None

        if option.adds:
            draft.add(place, read, source)
        else:
            draft.put(place, read, source)


def put_preset(draft: Draft, option: Shorthand, kept: Sequence[str], *, switched_on: bool) -> None:
    """Put what a switch stands for, but for the fields that were given beside it."""
    assert option.preset is not None
    for place, value in option.preset.items() if switched_on else ():
        if place.partition(".")[0] not in kept:
            draft.put(place, value, option.name)


def _check_it_is_taken(draft: Draft, option: Shorthand, place: str, source: str) -> None:
    """Refuse an option that the plugin chosen has not, where another is known that has it."""
    if not option.such_as:
        return
    part, _, key = place.rpartition(".")
    try:
        fields = draft.fields(part)
    except DNOError:
        # That there is no such plugin will be told when all is parsed, with its place.
        return
    if fields is not None and key not in fields:
        name = draft.at(part)["use"]
        raise ConfigError(
            f"{name} has no {key}, but {', '.join(fields)}; for {key} choose {option.such_as}",
            source=source,
        )


def _near(name: str, known: Sequence[str], arguments: Sequence[str]) -> str:
    """What may have been meant by a name that is not known, and those that are.

    Args:
        name: what was given.
        known: options.
        arguments: names beside them that may have been meant as well.
    """
    near = difflib.get_close_matches(name, [*known, *arguments], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}known: {', '.join(known)}"
