"""Who may import whom, and what must stay out of quick commands."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Every room, and the rooms that its files may import from besides their own.
TOP = {"wording", "errors", "guard", "protocols", "media", "files", "film", "paths"}
ROOMS = {
    "wording": set(),
    "errors": {"wording"},
    "guard": {"errors", "wording"},
    "protocols": set(),
    "files": {"errors", "wording"},
    "film": {"errors", "files", "wording"},
    "paths": {"errors", "wording"},
    "media": {"errors", "wording"},
    "core": TOP,
    "registry": TOP,
    "runs": TOP | {"core", "registry"},
    "report": TOP | {"core", "registry", "runs"},
    "plugin": TOP | {"core", "registry", "report"},
    "api": TOP | {"core", "registry", "runs", "report"},
    "testing": TOP | {"core", "registry", "plugin"},
    "cli": TOP | {"core", "registry", "runs", "report", "plugin", "api", ""},
    # The package itself resolves its public names on first use.
    "": set(),
}
# Distributions that are a way to use dno, as the command line is, and see what that sees.
DOORS = {"dno_comfyui"}
HEAVY = {"torch", "diffusers", "transformers", "safetensors", "matplotlib", "numpy", "PIL"}

COMMANDS = {"dno_studio"}
"""Plugins that add a command."""
TAUGHT = "dno_builtin.rewards.picks"
"""What a person in the loop writes, as notebooks do too."""


@functools.cache
def imports(path: Path, *, inside_functions: bool = True) -> frozenset[str]:
    """Dotted names of the modules that a file imports at run time, relative imports resolved.

    Imports for type checkers alone are left out.
    """
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if not inside_functions and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return

        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                # What is imported from a package may be a module of it, or a name.
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in MODULES else base)

        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return frozenset(found)


def module_of(path: Path) -> str:
    """Dotted name of the module that a file is."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "plugins":
        parts = parts[2:]
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def room_of(module: str) -> str:
    """The room of `dno` that a module is in; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


OURS = sorted((ROOT / "dno").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").glob("*/dno_*/**/*.py"))
MODULES = {module_of(path): path for path in [*OURS, *PLUGINS]}


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_from_those_below_it(path):
    room = room_of(module_of(path))
    assert room in ROOMS, f"{room} has no place in the house"
    for name in imports(path):
        assert not name.startswith("dno_"), f"{path.name} imports the plugin {name}"
        if name.split(".")[0] == "dno":
            assert room_of(name) in {room, *ROOMS[room]}, f"{path.name} imports {name}"


def test_core_and_registry_do_not_know_each_other():
    assert "registry" not in ROOMS["core"]
    assert "core" not in ROOMS["registry"]


def test_relative_imports_are_seen():
    """The samplers import one another by relative names, which the tests here must not miss."""
    found = imports(ROOT / "plugins/builtin/dno_builtin/samplers/ddim.py")
    assert any(name.startswith("dno_builtin.samplers.") for name in found)


def test_nothing_is_imported_in_a_circle():
    """By any chain of files, imports inside functions included."""
    graph = {
        module: {name for name in imports(path) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, chain: tuple[str, ...]) -> None:
        assert module not in chain, f"a circle: {' -> '.join([*chain, module])}"
        if module not in done:
            for name in graph[module]:
                visit(name, (*chain, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT / "plugins")))
def test_plugins_import_the_plugin_module_alone(path):
    own = module_of(path).split(".")[0]
    ours = {name for name in imports(path) if name.split(".")[0].startswith("dno")}
    # A command starts runs, and so stands where the users of `dno` do.
    allowed = {"dno.plugin", "dno", TAUGHT} if own in COMMANDS else {"dno.plugin"}
    if own in DOORS:
        ours = {name for name in ours if room_of(name) not in ROOMS["cli"]}
    strange = {name for name in ours - allowed if name.split(".")[0] != own}
    assert not strange, f"{path.name} imports {strange}"


def is_light(path: Path) -> bool:
    """Whether an option may lead to this file: numerics are in files and folders with a `_`."""
    # The embedded model's decoder is loaded by diffusers, never by an option.
    inner = path.relative_to(ROOT / "plugins").parts[2:]
    return not any(part.startswith(("_", "codec")) and part != "__init__.py" for part in inner)


@pytest.mark.parametrize(
    "path",
    [path for path in PLUGINS if is_light(path)],
    ids=lambda path: str(path.relative_to(ROOT / "plugins")),
)
def test_option_files_are_light(path):
    at_import = imports(path, inside_functions=False)
    assert not {name.split(".")[0] for name in at_import} & HEAVY


QUICK = {
    "--help": ["--help"],
    "optimize --help": ["optimize", "--help"],
    "--version": ["--version"],
    "plugins list": ["plugins", "list"],
    "plugins show": ["plugins", "show", "permutation"],
    "plugins new": ["plugins", "new", "mine"],
    "a mistake": [
        "optimize",
        "a cat",
        "--reward",
        "brightness",
        "--set",
        "sampler.stepz=3",
    ],
    "no such reward": ["optimize", "a cat", "--reward", "nope"],
    "not with this model": [
        "optimize",
        "a cat",
        "--reward",
        "brightness",
        "--sampler",
        "pipeline",
        "--set",
        "sampler.options.clip_skip=1",
    ],
}


@pytest.mark.parametrize("args", QUICK.values(), ids=QUICK.keys())
def test_quick_commands_import_nothing_heavy(args, tmp_path):
    code = (
        "import sys, dno.cli.main\n"
        f"sys.argv = ['dno', *{args!r}]\n"
        "try: dno.cli.main.main()\n"
        "except SystemExit as stop: print('\\nEXIT', stop.code or 0)\n"
        "print('\\nMODULES', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    mistaken = args[0] == "optimize" and "--help" not in args
    assert f"EXIT {2 if mistaken else 0}\n" in done.stdout

    loaded = set(done.stdout.rpartition("MODULES")[2].split())
    assert not loaded & HEAVY
    if args in (["plugins", "list"], ["plugins", "new", "mine"]):
        assert not {name for name in loaded if name.startswith("dno_")}
    if args == ["plugins", "list"]:
        assert "pydantic" not in loaded
