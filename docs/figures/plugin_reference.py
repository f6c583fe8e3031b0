"""Write docs/reference/plugins.md from what the built-in plugins say of themselves.

python docs/figures/plugin_reference.py
"""

from __future__ import annotations

from pathlib import Path

from dno.registry.configs import PluginConfig
from dno.registry.describe import about, options
from dno.registry.registry import REGISTRIES

PAGE = Path(__file__).parents[1] / "reference" / "plugins.md"
START = """# Built-in plugins

Written by `python docs/figures/plugin_reference.py`; the same as `dno plugins show NAME` prints.
`--set` puts an option at its place, such as `--set sampler.steps=20` or
`--set rewards.0.weight=2`.
"""


def text() -> str:
    """The whole page; a kind of which nothing is built in is left out."""
    parts = [START]
    for registry in REGISTRIES:
        ours = [info for info in registry.infos() if info.distribution == "dno"]
        if not ours:
            continue
        parts.append(f"## {registry.kind.capitalize()}\n")
        parts += [section(info.name, registry.load(info.qualified)) for info in ours]
    return "\n".join(parts)


def section(name: str, cls: type[PluginConfig]) -> str:
    """One plugin: what it says of itself, and a table of its options if it has any."""
    told = f"### {name}\n\n{about(cls)}\n"
    rows = [
        f"| `{option.name}` | `{option.type}` | `{option.default}` | {option.meaning} |"
        for option in options(cls)
    ]
    if not rows:
        return told
    head = ["| option | type | default | meaning |", "|---|---|---|---|"]
    return f"{told}\n" + "\n".join([*head, *rows]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
