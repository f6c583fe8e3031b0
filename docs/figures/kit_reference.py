"""Write docs/reference/testing.md from what the conformance kit says of itself.

python docs/figures/kit_reference.py
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from dno import testing
from dno.testing.configs import HEAVY, ConfigContract

PAGE = Path(__file__).parents[1] / "reference" / "testing.md"
START = f"""# The conformance kit

Written by `python docs/figures/kit_reference.py`.

`dno.testing` has a class of tests for each kind of plugin on this page. A plugin's own test
subclasses it and names a config; pytest does the rest.
[The tutorial](../tutorials/write-a-plugin.md) has a whole one for a reward,
[this page](../how-to/write-other-plugins.md) one for each other kind. Where the config needs files,
set `self.config` in an autouse fixture. What a plugin cannot do by its nature is skipped with the
reason. The checks are plain methods, so that one that does not fit can be overridden; attributes
such as `prompts` change what they try, and `device` where.

For tests of your own there are tiny real models (`dno.testing.models.tiny_stable_diffusion`,
`dno.testing.clip.save_tiny_clip`), samplers without a network (`dno.testing.toy`), and hypothesis
strategies of noise, images and prompts (`dno.testing.strategies`). The classes need pytest, the
strategies hypothesis.

## Every kind

Heavy are {", ".join(f"`{name}`" for name in HEAVY)}.

"""


def text() -> str:
    """The whole page."""
    shared = checks(ConfigContract)
    parts = [START + table(shared)]
    for name in sorted(testing.__all__):
        cls = getattr(testing, name)
        if isinstance(cls, type) and issubclass(cls, ConfigContract):
            parts.append(section(name, cls, shared))
    return "\n".join(parts)


def section(name: str, cls: type[Any], shared: dict[str, str]) -> str:
    """One class: what it says of itself, its attributes, its own checks."""
    about = inspect.getdoc(cls) or ""
    attributes = [
        f"`{key}`"
        for key in vars(cls).get("__annotations__", {})
        if not key.startswith("_") and key != "config"
    ]
    attributes.append("`device`")
    own = {check: told for check, told in checks(cls).items() if check not in shared}
    return f"## {name}\n\n{about}\n\nAttributes: {', '.join(attributes)}.\n\n{table(own)}"


def checks(cls: type[Any]) -> dict[str, str]:
    """The checks in the order that they are written in, each with its docstring."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for name, member in vars(base).items():
            if name.startswith("test_"):
                found[name] = inspect.getdoc(member) or ""
    return found


def table(rows: dict[str, str]) -> str:
    """What each check is called, and holds."""
    lines = [f"| `{name}` | {' '.join(about.split())} |" for name, about in rows.items()]
    return "\n".join(["| check | what it holds |", "|---|---|", *lines]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
