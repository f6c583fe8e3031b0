"""Write docs/reference/plugins.md from what the built-in plugins say of themselves.

python docs/figures/plugin_reference.py
"""

from __future__ import annotations

from pathlib import Path

from dno.registry.describe import about, options
from dno.registry.registry import REGISTRIES

PAGE = Path(__file__).parents[1] / "reference" / "plugins.md"


def text() -> str:
    """The whole page."""
    parts = [
        "# Built-in plugins\n\n"
        "Written by `python docs/figures/plugin_reference.py`; the same as `dno plugins show NAME` prints.\n"
        "`--set` puts an option at its place, such as `--set sampler.steps=20` or `--set rewards.0.weight=2`.\n"
    ]
    for registry in REGISTRIES:
        parts.append(f"## {registry.kind.capitalize()}\n")
        for info in registry.infos():
            if info.distribution != "dno":
                continue
            cls = registry.load(info.qualified)
            parts.append(f"### {info.name}\n\n{about(cls)}\n")
            rows = [
                f"| `{o.name}` | `{o.type}` | `{o.default}` | {o.meaning} |" for o in options(cls)
            ]
            if rows:
                parts.append(
                    "\n".join(["| option | type | default | meaning |", "|---|---|---|---|", *rows])
                    + "\n"
                )
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
