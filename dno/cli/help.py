"""Help of `dno optimize`: options under headings, each with what it is if it is left out."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from dno.cli.misspelt import HintingCommand

if TYPE_CHECKING:
    from dno.runs.draft import Draft
    from dno.runs.shorthands import Shorthand

_ARGUMENTS: Final = "dno.cli.help.arguments"
_WIDEST: Final = 30
"""Columns for what an option is called; the meaning of a longer one goes below it."""

# Contexts and formatters are `Any` here: Typer has a click of its own, and keeps its types private.


class OptimizeCommand(HintingCommand):
    """A command whose help tells the defaults of the plugins that its other options choose."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line, and keep it for the help."""
        # --help acts before the options beside it are read.
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, a section for each group."""
        from dno.runs.shorthands import Group

        helps = dict(option_helps(self._given(ctx)))
        sections: dict[Group, list[tuple[str, str]]] = {group: [] for group in Group}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is None:
                continue
            spelled, text = row
            if parameter.param_type_name == "argument":
                spelled = parameter.metavar or spelled
            # --help itself has no group.
            group = getattr(parameter, "rich_help_panel", None) or Group.REST.name
            sections[Group[group]].append((spelled, helps.get(parameter.name, text)))

        widest = max(len(spelled) for rows in sections.values() for spelled, _ in rows)
        for group, rows in sections.items():
            # As wide everywhere, so that the second columns of all sections are one.
            padded = [(spelled.ljust(min(widest, _WIDEST)), text) for spelled, text in rows]
            with formatter.section(group.value):
                formatter.write_dl(padded, col_max=_WIDEST)

    def _given(self, ctx: Any) -> Mapping[str, Any]:
        """What was given besides --help, as far as it can be read."""
        trial = self.make_context(
            ctx.info_name, list(ctx.meta[_ARGUMENTS]), parent=ctx.parent, resilient_parsing=True
        )
        return trial.params


def option_helps(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The help of each option of the table, by its name.

    Args:
        given: options by name; those that choose plugins decide what is told of the others.
    """
    from dno.cli.config import start_values
    from dno.runs.draft import Draft
    from dno.runs.run_config import BLACK_BOX
    from dno.runs.shorthands import CommandLine, entries, known_options, put_option, put_preset

    values = start_values(given["config"])
    draft = Draft(values)
    chosen = Draft(values)
    for name, option in known_options(command_line=True).items():
        if option.preset is not None and given.get(name):
            put_preset(draft, option, (), switched_on=True)
            put_preset(chosen, option, (), switched_on=True)
    # With all that was given, and with the rewards alone, on which the usual optimizer depends.
    rewarded = copy.deepcopy(draft)
    for name, option in entries(CommandLine).items():
        if given.get(name):
            put_option(chosen, option, given[name], command_line=True)
        if given.get(name) and option.place == "rewards":
            put_option(rewarded, option, given[name], command_line=True)
    another = rewarded.needs_another_optimizer()

    if chosen.needs_another_optimizer():
        chosen.put("optimizer", dict(BLACK_BOX), "")
    for name, option in known_options(command_line=True).items():
        if another and option.place == "optimizer" and option.preset is None:
            # Told with its options: they are not the plugin's own defaults.
            use, *own = (f"{key}={_shown(value)}" for key, value in BLACK_BOX.items())
            yield name, _with_default(option, [" ".join([use.removeprefix("use="), *own])])
        elif _inside_a_part(option):
            yield name, _of_plugins(option, chosen)
        else:
            yield name, _of_the_run(option, draft)


def _inside_a_part(option: Shorthand) -> bool:
    """Whether it is a plugin's option, and not one of the run."""
    from dno.runs.draft import PARTS

    field, _, rest = option.place.partition(".")
    return field in PARTS and rest not in ("", "use")


def _of_the_run(option: Shorthand, draft: Draft) -> str:
    """Help of an option whose default the configuration has."""
    if option.preset is not None:
        return option.help
    default = draft.at(option.place)
    if default in (None, [], ()):
        return option.help
    return _with_default(option, [option.tell(default)])


def _of_plugins(option: Shorthand, draft: Draft) -> str:
    """Help of an option whose default the plugins have that the run will use."""
    defaults = []
    for place in draft.each(option.place):
        part, _, key = place.rpartition(".")
        fields = draft.fields(part)
        if fields is None:
            # A mistake in the file, which a run will tell.
            return option.help

        field = fields.get(key)
        if field is None:
            return f"{option.help} [not an option of {draft.at(part)['use']}]"

        default = draft.at(place)
        if default is None:
            default = field.get_default(call_default_factory=True)
        if default is None:
            # Then what happens is for the plugin to tell, such as: the pipeline's own.
            return " ".join((field.description or option.help).split())
        defaults.append(default)
    return _with_default(option, defaults)


def _with_default(option: Shorthand, defaults: Iterable[Any]) -> str:
    # Several plugins may have one default in common.
    shown = ", ".join(dict.fromkeys(text for text in map(_shown, defaults) if text))
    return f"{option.help} [default: {shown}]" if shown else option.help


def _shown(value: Any) -> str:
    """A value as one would give it on the command line."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value))
    if isinstance(value, Mapping):
        name = str(value.get("use", ""))
        return f"{name}={_shown(value['weight'])}" if "weight" in value else name
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
