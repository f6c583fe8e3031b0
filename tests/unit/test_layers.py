"""Who may import whom, and what must stay out of quick commands."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RANKS = (
    ("errors", "protocols", "published"),
    ("config", "gradients", "noise", "pictures", "result"),
    ("budget", "events", "registry"),
    ("live", "models", "objective"),
    ("run_config",),
    ("engine", "plugin"),
    ("storage",),
    ("build",),
    ("run",),
)
ORDER = {name: rank for rank, names in enumerate(RANKS) for name in names}
HEAVY = {"torch", "diffusers", "transformers", "safetensors", "matplotlib", "numpy", "PIL"}


def imports(path: Path, *, module_level: bool = False) -> set[str]:
    """Dotted names that a file imports at run time; imports for type checkers alone are left out."""
    tree = ast.parse(path.read_text())
    found = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if module_level and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = {f"dno.{alias.name}" for alias in node.names if not alias.name.startswith("_")}
            found.update(names if node.module == "dno" else {str(node.module)})
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


CORE = sorted((ROOT / "dno").glob("*.py"))
FRONT = sorted((ROOT / "dno" / "front").glob("*.py"))
PLUGINS = sorted((ROOT / "plugins").glob("*/dno_*/**/*.py"))


@pytest.mark.parametrize("path", FRONT, ids=lambda p: p.name)
def test_front_ends_stand_outside_of_the_core_and_know_no_plugin(path):
    assert not [name for name in imports(path) if name.startswith(("dno_", "dno.testing", "dno.engine", "dno.build"))]
    assert not [name for core in CORE for name in imports(core) if name.startswith("dno.front")]


@pytest.mark.parametrize("path", CORE, ids=lambda p: p.name)
def test_the_core_imports_leftwards_only_and_no_plugin(path):
    for name in imports(path):
        assert not name.startswith(("dno_", "dno.testing")), f"{path.name} imports {name}"
        if name.startswith("dno.") and path.stem in ORDER:
            assert ORDER[name.split(".")[1]] < ORDER[path.stem], f"{path.name} imports {name}"


def test_every_core_file_has_its_place():
    assert {path.stem for path in CORE} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("path", PLUGINS, ids=lambda p: str(p.relative_to(ROOT / "plugins")))
def test_plugins_import_the_plugin_module_alone(path):
    own = path.relative_to(ROOT / "plugins").parts[1]
    ours = {name for name in imports(path) if name.split(".")[0].startswith("dno")}
    assert all(name == "dno.plugin" or name.split(".")[0] == own for name in ours), f"{path.name}: {ours}"


# The embedded model's decoder is loaded by diffusers, never by an option.
OPTIONS = [p for p in PLUGINS if p.name == "__init__.py" or not p.name.startswith(("_", "codec"))]


@pytest.mark.parametrize("path", OPTIONS, ids=lambda p: str(p.relative_to(ROOT / "plugins")))
def test_option_files_are_light(path):
    assert not {name.split(".")[0] for name in imports(path, module_level=True)} & HEAVY


QUICK = {
    "--help": ["--help"],
    "optimize --help": ["optimize", "--help"],
    "--version": ["--version"],
    "plugins list": ["plugins", "list"],
    "plugins show": ["plugins", "show", "permutation"],
    "plugins new": ["plugins", "new", "mine"],
    "a mistake": ["optimize", "a cat", "--reward", "brightness", "--set", "sampler.stepz=3"],
    "no such reward": ["optimize", "a cat", "--reward", "nope"],
}


@pytest.mark.parametrize("args", QUICK.values(), ids=QUICK.keys())
def test_quick_commands_import_nothing_heavy(args, tmp_path):
    code = (
        "import sys, dno.front.cli\n"
        f"sys.argv = ['dno', *{args!r}]\n"
        "try: dno.front.cli.main()\n"
        "except SystemExit as stop: print('\\nEXIT', stop.code or 0)\n"
        "print('\\nMODULES', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"EXIT {2 if args[0] == 'optimize' and '--help' not in args else 0}\n" in done.stdout
    loaded = set(done.stdout.rpartition("MODULES")[2].split())
    assert not loaded & HEAVY
    if args in (["plugins", "list"], ["plugins", "new", "mine"]):
        assert not {name for name in loaded if name.startswith("dno_")}
    if args == ["plugins", "list"]:
        assert "pydantic" not in loaded
