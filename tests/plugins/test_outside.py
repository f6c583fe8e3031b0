"""Plugins as other people meet them: wheels in an environment of their own, without the working
tree.
"""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest
from outside import ROOT, Place, build, make_place

from dno.cli.skeleton import write_reward

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "plugins" / "example-reward"
JUDGE = ROOT / "plugins" / "vlm-judge"
COMFYUI = ROOT / "plugins" / "comfyui"
TUTORIAL = ROOT / "docs" / "tutorials" / "write-a-plugin.md"
BUILT_IN = "rewards       brightness           dno "
MINE = [f"mine-{number}" for number in range(9)]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("wheels")
    return {"dno": build(ROOT, out), "example": build(EXAMPLE, out), "judge": build(JUDGE, out)}


@pytest.fixture(scope="module")
def user(wheels, tmp_path_factory) -> Place:
    """`dno` and our plugins, with what they require and nothing else."""
    return make_place(tmp_path_factory.mktemp("user") / "env", wheels.values())


def test_the_wheels_are_all_there_is(user, tmp_path):
    modules = "dno, dno_builtin, dno_emoji, dno_colorfulness, dno_vlm_judge, openai, torch"
    code = f"import {modules}\nfor module in ({modules}): print(module.__file__)"
    for file in user.run("python", "-c", code, cwd=tmp_path).splitlines():
        assert Path(file).is_relative_to(user.site)
    absent = (
        "import sys, importlib.util as u; sys.exit(any(map(u.find_spec, ('pip', 'pytest', "
        "'hypothesis', 'peft'))))"
    )
    user.run("python", "-c", absent, cwd=tmp_path)
    user.pip("check", cwd=tmp_path)


def test_a_plugin_is_listed_checked_and_climbed(user, tmp_path):
    listed = user.run("dno", "plugins", "list", cwd=tmp_path)
    assert BUILT_IN in listed
    assert "rewards       colorfulness         dno-colorfulness 0.1.0\n" in listed
    checked = user.run("dno", "plugins", "check", cwd=tmp_path).splitlines()
    assert len(checked) == len(listed.splitlines())
    assert all(row.endswith(" ok") for row in checked)
    command = [
        "dno",
        "optimize",
        "a cat",
        "--reward",
        "colorfulness",
        "--iterations",
        2,
        "--steps",
        5,
        "--out",
        "cat",
    ]
    before, after = (
        user.run(*command, cwd=tmp_path).split("\ncolorfulness ")[1].split(",")[0].split(" -> ")
    )
    assert float(after) > float(before) + 0.05
    assert (tmp_path / "cat" / "best.png").is_file()


def test_the_example_and_an_untouched_skeleton_pass_their_own_tests(wheels, tmp_path):
    skeleton, *_ = write_reward("my.own", tmp_path / "skeleton")
    author = make_place(
        tmp_path / "env", [wheels["dno"], wheels["example"], build(skeleton, tmp_path)], ["pytest"]
    )
    for project in (EXAMPLE, skeleton):
        shutil.copytree(project / "tests", tmp_path / "tests", dirs_exist_ok=True)
    summary = author.run(
        "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "tests", cwd=tmp_path
    )
    assert " passed" in summary
    assert "skipped" not in summary


def test_the_judges_pass_their_own_tests(wheels, tmp_path):
    author = make_place(tmp_path / "env", [wheels["dno"], wheels["judge"]], ["pytest"])
    shutil.copytree(JUDGE / "tests", tmp_path / "tests")
    summary = author.run(
        "pytest", "-q", "-rs", "-W", "error", "-p", "no:cacheprovider", "tests", cwd=tmp_path
    )
    assert " passed" in summary
    assert "no installed distribution" not in summary


def test_the_nodes_pass_their_own_tests(wheels, tmp_path):
    author = make_place(
        tmp_path / "env", [wheels["dno"], build(COMFYUI, tmp_path / "wheels")], ["pytest"]
    )
    shutil.copytree(COMFYUI / "tests", tmp_path / "tests")
    summary = author.run(
        "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "tests", cwd=tmp_path
    )
    assert " passed" in summary
    assert "skipped" not in summary


def test_the_folder_of_nodes_is_loaded_from_custom_nodes(wheels, tmp_path):
    """As ComfyUI loads it: by its path, where the folder is on no path and nothing is installed
    but `dno`.
    """
    place = make_place(tmp_path / "env", [wheels["dno"]])
    folder = tmp_path / "ComfyUI-1.0" / "custom_nodes" / "comfyui-dno"
    shutil.copytree(COMFYUI, folder)
    code = f"""
import asyncio, importlib.util, sys
from pathlib import Path
sys.path.append({str(folder / "tests")!r})
import comfy_stub
comfy_stub.install(Path({str(tmp_path)!r}))
name = {str(folder)!r}.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, {str(folder / "__init__.py")!r})
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
async def listed():
    extension = await module.comfy_entrypoint()
    await extension.on_load()
    return await extension.get_node_list()
print(*(node.GET_SCHEMA().node_id for node in asyncio.run(listed())))
assert "torch" not in sys.modules
assert "dno_comfyui" not in sys.modules
"""
    found = place.run("python", "-c", code, cwd=tmp_path)
    assert found.split() == ["DNOOptimize", "DNOReward", "DNOOpenRun"]


def test_of_ten_plugins_one_is_broken(wheels, tmp_path):
    """Listing imports none; checking imports all and tells of the one; the others can be used."""
    imported = tmp_path / "imported"
    made = [wheels["example"]]
    for name in MINE:
        folder, *files = write_reward(name, tmp_path / name)
        (module,) = (path for path in files if path.name == "__init__.py")
        trace = f"open({str(imported)!r}, 'a').write('{name}\\n')\n" + "import nowhere.near\n" * (
            name == "mine-4"
        )
        module.write_text(
            module.read_text().replace("if TYPE_CHECKING:", f"{trace}\nif TYPE_CHECKING:")
        )
        made.append(build(folder, tmp_path / "wheels"))
    place = make_place(tmp_path / "env", [wheels["dno"], *made])

    listed = place.run("dno", "plugins", "list", cwd=tmp_path)
    assert all(
        f"rewards       {name:<20} dno-{name} 0.1.0\n" in listed for name in [*MINE, "colorfulness"]
    )
    assert not imported.exists()
    checked = place.run("dno", "plugins", "check", cwd=tmp_path, code=1).splitlines()
    assert [row for row in checked if not row.endswith(" ok")] == [
        'rewards       mine-4               reward "mine-4" of dno-mine-4 0.1.0 (dno_mine_4:Mine4) '
        "needs the module nowhere, which is not installed; install what provides it, or update "
        "the plugin"
    ]
    assert len(checked) == len(listed.splitlines())
    assert imported.read_text().split() == MINE
    assert "\n  channel: " in place.run("dno", "plugins", "show", "mine-5", cwd=tmp_path)


def test_the_tutorial_leads_to_the_example(wheels, tmp_path):
    """Its commands in one shell, as a reader types them; what it shows of their output; what they
    leave behind.
    """
    of_kind = runpy.run_path(str(ROOT / "tests" / "docs" / "test_docs.py"))["of_kind"]
    reader = make_place(
        tmp_path / "env", [wheels["dno"]], ["hatchling", "editables", "pip", "pytest"]
    )
    work = tmp_path / "work"
    work.mkdir()
    printed = reader.run(
        "bash", "-euo", "pipefail", cwd=work, script="\n".join(of_kind(TUTORIAL, "bash"))
    )
    for shown in of_kind(TUTORIAL, "console"):
        assert set(shown.splitlines()) <= set(printed.splitlines())
    for name in ("dno_colorfulness/__init__.py", "tests/test_colorfulness.py"):
        assert (work / "dno-colorfulness" / name).read_bytes() == (EXAMPLE / name).read_bytes()
    assert (work / "rabbit" / "best.png").is_file()
