"""Write docs/reference/plugin-api.md from the docstrings of what a plugin imports.

python docs/figures/plugin_api.py
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import NamedTuple

from dno import plugin

PAGE = Path(__file__).parents[1] / "reference" / "plugin-api.md"
PARTS = {
    "Configs": [
        "PluginConfig",
        "RewardConfig",
        "SamplerConfig",
        "RegularizerConfig",
        "ConstraintConfig",
        "OptimizerConfig",
        "ObserverConfig",
        "ModelConfig",
        "BuildContext",
        "Origin",
    ],
    "What a config builds": [
        "Reward",
        "Sampler",
        "NoiseMap",
        "CoarseMap",
        "Medium",
        "IMAGE",
        "Regularizer",
        "Penalty",
        "Constraint",
        "Optimizer",
        "State",
        "Objective",
        "Slopes",
        "Look",
    ],
    "What a plan is made of": [
        "Footprint",
        "Room",
        "Beside",
        "Cost",
        "traced",
        "kept_by",
        "outlined",
        "without_weights",
        "is_shape",
        "gib",
    ],
    "What an observer sees": [
        "hookimpl",
        "Events",
        "RunStarted",
        "StepDone",
        "RunFinished",
        "RunInfo",
        "StepRecord",
        "PerSample",
        "Outcome",
        "Snapshot",
        "Status",
    ],
    "Helpers": [
        "gaussian_noise",
        "pictures",
        "thumbnails",
        "find_model",
        "installed_model",
        "hub_is_offline",
        "quiet",
        "hearing",
        "first_line",
        "write_file",
        "Film",
        "animation_of",
        "write_report",
        "clean",
        "short",
        "out_of_memory",
        "ConfigError",
        "RunError",
    ],
}
ONLY_MET = sorted(name for names in PARTS.values() for name in names if not hasattr(plugin, name))
"""What a plugin meets without importing it."""
START = f"""# What a plugin imports

Written by `python docs/figures/plugin_api.py`. All of it is in `dno.plugin`, but for what is only
met: {", ".join(f"`{name}`" for name in ONLY_MET)}. Nothing else of `dno` is for plugins, except
[`dno.testing`](testing.md) in their tests.

B is the number of samples, N the entries of one sample's noise, H x W the size of an image.
"""
HOMES = (
    "registry.configs",
    "registry.loading",
    "registry.hearing",
    "registry.models",
    "errors",
    "files",
    "film",
    "guard",
    "media",
    "protocols",
    "report.page",
    "wording",
    "core.costs",
    "core.events",
    "core.noise",
    "core.result",
    "core.shapes",
)
"""Where the names on the page are defined."""
UNTOLD = ("model_config", "inside")
"""Members that are of no use to a plugin."""


class Defined(NamedTuple):
    """A name's definition."""

    node: ast.stmt
    about: str
    """Its docstring."""


def text() -> str:
    """The whole page."""
    told = {name for names in PARTS.values() for name in names}
    public = {name for name in vars(plugin) if not name.startswith("_")} - {"annotations"}
    assert public <= told, f"not on the page: {public - told}"

    defined: dict[str, Defined] = {}
    for home in HOMES:
        module = importlib.import_module(f"dno.{home}")
        defined |= definitions(ast.parse(inspect.getsource(module)).body)

    lines = [START]
    for part, names in PARTS.items():
        lines.append(f"## {part}\n")
        lines += [section(name, defined[name]) for name in names]
    return "\n".join(lines)


def definitions(body: list[ast.stmt]) -> dict[str, Defined]:
    """Public classes, functions, methods and fields by name."""
    found: dict[str, Defined] = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found[node.name] = Defined(node, ast.get_docstring(node) or "")
        elif isinstance(node, (ast.AnnAssign, ast.Assign)):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name):
                found[target.id] = Defined(node, string(after))
    return {
        name: one for name, one in found.items() if name == "__call__" or not name.startswith("_")
    }


def string(node: ast.stmt | None) -> str:
    """The string that stands under a field; empty where something else does."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return inspect.cleandoc(str(node.value.value))
    return ""


def section(name: str, defined: Defined) -> str:
    """One name with its members."""
    node, about = defined
    lines = [f"### {heading(name, defined)}\n"]
    if about:
        lines.append(quoted(about))
    if isinstance(node, ast.ClassDef):
        for member, inner in definitions(node.body).items():
            if member in UNTOLD:
                continue
            item = f"- `{signature(member, inner.node)}`\n\n{indented(quoted(inner.about))}"
            lines.append(item.rstrip() + "\n")
    return "\n".join(lines)


def heading(name: str, defined: Defined) -> str:
    """The name, with arguments where it is a function, and its value where that says it all."""
    node, about = defined
    plain = isinstance(node, (ast.AnnAssign, ast.Assign)) and not about
    if plain or isinstance(node, ast.FunctionDef):
        return f"`{signature(name, node)}`"
    return f"`{name}`"


def signature(name: str, node: ast.stmt) -> str:
    """A member as it is written, on one line."""
    if not isinstance(node, ast.FunctionDef):
        written = " ".join(ast.unparse(node).split())
        # Fields that JSON cannot hold as they are have types of their own, which are floats all
        # the same; and an empty mapping is written in two ways, since no default may change.
        written = re.sub(r"\b_\w+", "float", written)
        return re.sub(
            r"= (\w+\.)?(field\(default_factory=dict\)|MappingProxyType\({}\))$", "= {}", written
        )

    marks = {ast.unparse(mark).rpartition(".")[2] for mark in node.decorator_list}
    returns = ast.unparse(node.returns) if node.returns else ""
    if "property" in marks:
        return f"{name}: {returns}"
    arguments = re.sub(r"^(self|cls)(, )?", "", ast.unparse(node.args))
    if "contextmanager" in marks:
        return f"with {name}({arguments})"
    return f"{name}({arguments})" + (f" -> {returns}" if returns else "")


def quoted(docstring: str) -> str:
    """A docstring's text; the indented parts under `Args:` and `Raises:` become lists."""
    lines = []
    listed = True
    for line in docstring.splitlines():
        told = line.strip()
        if line in ("Args:", "Raises:", "Returns:"):
            listed = line != "Returns:"
            lines.append(f"{line}\n")
        elif line.startswith("    ") and listed:
            continues = line.startswith("     ")
            lines.append(f"  {told}" if continues else f"- {told}")
        else:
            lines.append(told)
    return "\n".join(lines) + "\n"


def indented(lines: str) -> str:
    """Part of a list's item."""
    return "\n".join(f"  {line}" if line else "" for line in lines.splitlines())


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
