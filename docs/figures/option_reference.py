"""Write docs/reference/options.md from the tables of options.

python docs/figures/option_reference.py
"""

from __future__ import annotations

from pathlib import Path

from dno.cli.help import option_helps
from dno.runs.shorthands import CommandLine, Group, entries, known_options

PAGE = Path(__file__).parents[1] / "reference" / "options.md"
HEAD = """# Options of a run

Written by `python docs/figures/option_reference.py`. Defaults are those of the default plugins;
`dno optimize --help` tells those of the plugins that are chosen with it, as
`dno optimize --optimizer sgd --help` does. In Python an option is an argument of `dno.optimize`;
parts, which have no name in that column, are arguments too, and may be objects there.

The place is where a [configuration](run.md) has the value. Whatever has no option is set by its
place: `--set sampler.memory=recompute`, or `settings={"sampler.memory": "recompute"}`.
"""


def text() -> str:
    """The whole page."""
    helps = dict(option_helps({"config": None}))
    parts = [HEAD]
    for group in Group:
        rows = []
        for name, option in known_options(command_line=True).items():
            if option.group is not group:
                continue
            python = "" if name in entries(CommandLine) else f"`{name}`"
            spelled = option.spelled(command_line=True)
            rows.append(f"| `{spelled}` | {python} | `{option.place}` | {helps[name]} |")
        if rows:
            head = ["| option | in Python | place | meaning |", "|---|---|---|---|"]
            parts.append(f"## {group.value}\n\n" + "\n".join([*head, *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
