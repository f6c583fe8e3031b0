"""Write docs/reference/plugin-api.md from the docstrings of what a plugin imports.

python docs/figures/plugin_api.py
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

from dno import plugin

PAGE = Path(__file__).parents[1] / "reference" / "plugin-api.md"
START = """# What a plugin imports

Written by `python docs/figures/plugin_api.py`. All of it is in `dno.plugin`, but for `Events`, `Snapshot` and `Status`,
which are only met. Nothing else of `dno` is for plugins, except [`dno.testing`](testing.md) in their tests.

B is the number of samples, N the entries of one sample's noise, H x W the size of an image.
"""
PARTS = {
    "Configs": [
        "PluginConfig",
        "RewardConfig",
        "SamplerConfig",
        "RegularizerConfig",
        "OptimizerConfig",
        "ObserverConfig",
        "ModelConfig",
        "BuildContext",
    ],
    "What a config builds": [
        "Reward",
        "Sampler",
        "NoiseMap",
        "Regularizer",
        "Penalty",
        "Optimizer",
        "State",
        "Objective",
    ],
    "What an observer sees": [
        "hookimpl",
        "Events",
        "RunInfo",
        "StepRecord",
        "Result",
        "Snapshot",
        "Status",
    ],
    "Helpers": ["gaussian_noise", "pictures", "find_model", "ConfigError", "RunError"],
}


HOMES = (
    "registry.configs",
    "errors",
    "core.events",
    "registry.models",
    "core.noise",
    "media",
    "protocols",
    "core.result",
)
"""Where the names on the page are defined."""


def text() -> str:
    """The whole page."""
    named = {name for names in PARTS.values() for name in names}
    public = {name for name in vars(plugin) if not name.startswith("_")} - {"annotations"}
    assert public | {"Events", "Snapshot", "Status"} == named, (
        f"not on the page, or not there: {public ^ named}"
    )
    homes = [importlib.import_module(f"dno.{name}") for name in HOMES]
    nodes = {
        name: node
        for module in homes
        for name, node in named_nodes(ast.parse(inspect.getsource(module)).body)
    }
    lines = [START]
    for part, names in PARTS.items():
        lines.append(f"## {part}\n")
        lines += [section(name, *nodes[name]) for name in names]
    return "\n".join(lines)


def named_nodes(body: list[ast.stmt]) -> list[tuple[str, tuple[ast.stmt, str]]]:
    """Public classes, functions, methods and fields, each with its node and docstring."""
    found: list[tuple[str, tuple[ast.stmt, str]]] = []
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found.append((node.name, (node, ast.get_docstring(node) or "")))
        elif isinstance(node, (ast.AnnAssign, ast.Assign)):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            about = (
                after.value.value
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                else ""
            )
            if isinstance(target, ast.Name):
                found.append((target.id, (node, inspect.cleandoc(str(about)))))
    return [pair for pair in found if pair[0] == "__call__" or not pair[0].startswith("_")]


def section(name: str, node: ast.stmt, about: str) -> str:
    """One name with its members."""
    lines = [f"### {heading(name, node)}\n", quoted(about)]
    if isinstance(node, ast.ClassDef):
        for member, (inner, told) in named_nodes(node.body):
            if member not in ("model_config", "inside"):
                lines.append(
                    f"- `{signature(member, inner)}`\n\n{indented(quoted(told))}".rstrip() + "\n"
                )
    return "\n".join(lines)


def heading(name: str, node: ast.stmt) -> str:
    """The name, with arguments where it is a function."""
    return f"`{signature(name, node)}`" if isinstance(node, ast.FunctionDef) else f"`{name}`"


def signature(name: str, node: ast.stmt) -> str:
    """A member as it is written, on one line."""
    if isinstance(node, ast.FunctionDef):
        if any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list):
            return f"{name}: {ast.unparse(node.returns) if node.returns else ''}"
        arguments = ast.unparse(node.args).removeprefix("self, ").removeprefix("self")
        return f"{name}({arguments})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")
    # Fields that JSON cannot hold as they are have types of their own, which are floats all the same.
    return re.sub(r"\b_\w+", "float", " ".join(ast.unparse(node).split()))


def quoted(docstring: str) -> str:
    """A docstring's text; the indented parts under `Args:` and `Raises:` become lists."""
    lines = []
    for line in docstring.splitlines():
        if line in ("Args:", "Raises:", "Returns:"):
            lines += [f"{line}\n"]
        elif line.startswith("    ") and not line.startswith("     "):
            lines.append(f"- {line.strip()}")
        else:
            lines.append(line.strip() if line.startswith("     ") else line)
    return "\n".join(lines) + "\n"


def indented(lines: str) -> str:
    """Part of a list's item."""
    return "\n".join(f"  {line}" if line else "" for line in lines.splitlines())


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
