"""The nodes as ComfyUI meets them, on the embedded model."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import dno_comfyui
import pytest
import torch

import dno
from dno.plugin import find_model

FEW = {"steps": 4, "iterations": 2, "seed": 3}


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_what_comfyui_is_told_is_what_execute_takes(nodes):
    assert sorted(nodes) == ["DNOOpenRun", "DNOOptimize", "DNOReward"]
    for node in nodes.values():
        schema = node.GET_SCHEMA()
        taken = inspect.signature(node.execute).parameters
        assert [port.id for port in schema.inputs if not port.optional] == [
            name for name, value in taken.items() if value.default is value.empty
        ]
        assert {port.id for port in schema.inputs} == set(taken)
        assert all(port.display_name for port in schema.outputs)
        assert set(inspect.signature(node.validate_inputs).parameters) <= set(taken)


def test_lists_are_what_is_installed_and_no_plugin_is_imported_for_them(tmp_path, output):
    where = [str(Path(__file__).parent), *sys.path]
    code = f"""
import sys
sys.path[:0] = {where!r}
import conftest, importlib
from dno_comfyui import choices
assert {{"brightness", "clip"}} <= set(choices.rewards()), choices.rewards()
assert choices.optimizers()[0] == choices.USUAL and "ascent" in choices.optimizers()
assert "ddim" in choices.samplers() and "emoji" in choices.models()
strange = [name for name in sys.modules if name.startswith(("dno_builtin", "dno_emoji"))]
assert not strange, strange
assert not {{"diffusers", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_models_of_comfyui_are_listed_and_found(tmp_path, nodes):
    from dno_comfyui import choices, host

    models = tmp_path / "models"
    (models / "checkpoints" / "sd15.safetensors").write_bytes(b"")
    (models / "checkpoints" / "old.ckpt").write_bytes(b"")
    for part in ("", "unet"):
        (models / "diffusers" / "sets" / "tiny" / part).mkdir(parents=True, exist_ok=True)
    (models / "diffusers" / "sets" / "tiny" / "model_index.json").write_text("{}")
    assert choices.models()[-2:] == ["checkpoints/sd15.safetensors", "diffusers/sets/tiny"]
    for name in choices.models()[-2:]:
        assert host.model_path(name) == str(models / name)
    assert host.model_path("emoji") == "emoji"
    # A name that somebody wrote into a workflow leads to no file outside.
    (tmp_path / "secret.safetensors").write_bytes(b"")
    assert host.model_path("checkpoints/../../secret.safetensors").startswith("checkpoints/")


def test_a_run_in_inference_mode_is_the_run_of_python(nodes, execute, output, tmp_path):
    seen: list[Any] = []

    def hook(value, total, preview, node_id=None):
        seen.append((value, total, preview))

    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        image, before, noise, verdict = execute(
            nodes["DNOOptimize"], prompt="a cat", batch=2, **FEW
        )
    finally:
        comfy.utils.set_progress_bar_global_hook(None)

    result = dno.optimize("a cat", reward="brightness", model="emoji", batch=2, **FEW)
    for images, snapshot in ((image, result.best), (before, result.initial)):
        assert images.shape == (2, 64, 64, 3)
        assert images.dtype == torch.float32
        assert torch.equal(images.permute(0, 3, 1, 2), snapshot.samples.clamp(0, 1))
    assert torch.equal(noise.noise_BN, result.best.noise_BN)
    assert noise.about.splitlines()[1] == "dno/run_00001: 'a cat', seed 4"
    assert "brightness" in verdict
    assert not torch.equal(image, before)

    assert [value for value, *_ in seen] == sorted(value for value, *_ in seen)
    assert seen[-1][:2] == (2, 2)
    assert seen[-1][2][1].size == (64, 64)

    run = dno.open_run(output / "dno" / "run_00001")
    assert run.status == "finished"
    # Nothing but the run's folder was written.
    assert {name for name in files(tmp_path) if not name.startswith(("output/dno", "models"))} == {
        "output",
        "here",
    }


def test_a_diffusers_folder_is_drawn_with(nodes, execute, output, tmp_path):
    folder = find_model("emoji")
    (tmp_path / "models" / "diffusers" / "mine").symlink_to(folder)
    given = {**FEW, "iterations": 1}
    drawn = [
        execute(nodes["DNOOptimize"], prompt="a cat", **chosen, **given)[0]
        for chosen in (
            {"model": "emoji"},
            {"model": "diffusers/mine"},
            {"model": "gone", "other_model": folder},
        )
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    used = dno.open_run(output / "dno" / "run_00002").values["sampler"]["model"]
    assert used.endswith("models/diffusers/mine")


def test_going_on_from_noise_and_from_an_opened_run(nodes, execute, output):
    _, _, noise, _ = execute(nodes["DNOOptimize"], prompt="a cat", **FEW)
    image, before, opened, about = execute(nodes["DNOOpenRun"], folder="dno/run_00001")
    assert torch.equal(opened.noise_BN, noise.noise_BN)
    assert "dno/run_00001: 'a cat', seed 3" in about
    assert "brightness" in about
    assert image.shape == before.shape == (1, 64, 64, 3)

    further, start, *_ = execute(nodes["DNOOptimize"], prompt="a cat", start=opened, **FEW)
    # A PNG has eight bits a channel.
    torch.testing.assert_close(start, image, atol=0.51 / 255, rtol=0)
    assert further.mean() > image.mean()
    assert (output / "dno" / "run_00002" / "result.json").is_file()


def test_a_run_that_goes_on_is_read_again(nodes, execute, output):
    node = nodes["DNOOpenRun"]
    execute(nodes["DNOOptimize"], prompt="a cat", **{**FEW, "iterations": 1})
    before = node.fingerprint_inputs("dno/run_00001")
    assert node.fingerprint_inputs("dno/run_00001") == before
    dno.resume(output / "dno" / "run_00001", iterations=2, settings={"observers": ["curve"]})
    assert node.fingerprint_inputs("dno/run_00001") != before
    # Unequal to itself: always read.
    unknown = node.fingerprint_inputs(None)
    assert unknown != unknown


def test_models_stay_loaded_where_asked_and_runs_are_the_same(nodes, execute, monkeypatch):
    loads: list[Any] = []
    rooms: list[None] = []
    load = dno.load
    monkeypatch.setattr(dno, "load", lambda **given: loads.append(given) or load(**given))
    monkeypatch.setattr(comfy.model_management, "unload_all_models", lambda: rooms.append(None))

    def image(**given: Any) -> torch.Tensor:
        images: torch.Tensor = execute(nodes["DNOOptimize"], **{**FEW, "iterations": 1, **given})[0]
        return images

    cold = image(prompt="a dog")
    assert (len(loads), len(rooms)) == (0, 1)
    image(prompt="a cat", keep_loaded=True)
    warm = image(prompt="a dog", keep_loaded=True)
    assert torch.equal(warm, cold)
    assert (len(loads), len(rooms)) == (1, 2)
    # Another number of steps is another sampler.
    image(prompt="a dog", keep_loaded=True, steps=3)
    assert (len(loads), len(rooms)) == (2, 3)
    image(prompt="a dog")
    image(prompt="a dog", keep_loaded=True, steps=3)
    assert (len(loads), len(rooms)) == (3, 5)


def test_the_workflow_that_comes_with_the_nodes_runs(nodes, execute):
    file = Path(inspect.getfile(dno_comfyui)).with_name("workflow_api.json")
    given: dict[str, tuple[Any, ...]] = {}
    for number, step in json.loads(file.read_text()).items():
        node = nodes.get(step["class_type"])
        values = {
            name: given[value[0]][value[1]] if isinstance(value, list) else value
            for name, value in step["inputs"].items()
        }
        if node is None:
            # Nodes of ComfyUI itself, which take what comes.
            assert step["class_type"] in {"SaveImage", "PreviewImage", "PreviewAny"}
            continue
        known = {port.id: port.optional for port in node.GET_SCHEMA().inputs}
        assert {name for name, optional in known.items() if not optional} <= set(values)
        assert set(values) <= set(known)
        given[number] = execute(node, **values)
    assert given["2"][0].shape == given["2"][1].shape == (2, 64, 64, 3)
    assert "contrast" in given["2"][3]


def test_rewards_in_a_chain_and_settings_are_the_runs(nodes, execute, output):
    (chain,) = execute(nodes["DNOReward"], reward="jpeg", weight=0.5, options="")
    (chain,) = execute(nodes["DNOReward"], reward="contrast", weight=2.0, rewards=chain)
    execute(
        nodes["DNOOptimize"],
        prompt="a cat",
        rewards=chain,
        optimizer="adam",
        settings="# lower than usual\noptimizer.lr=0.002\n\nsampler.eta = 0.5",
        folder="mine/cat",
        **{**FEW, "iterations": 1},
    )
    values = dno.open_run(output / "mine" / "cat_00001").values
    climbed = [(reward["use"], reward["weight"]) for reward in values["rewards"]]
    assert climbed == [("brightness", 1.0), ("jpeg", 0.5), ("contrast", 2.0)]
    assert values["optimizer"]["use"] == "adam"
    assert values["optimizer"]["lr"] == 0.002
    assert values["sampler"]["eta"] == 0.5


@pytest.mark.parametrize("pressed", ["in an iteration", "as the bar moves", "at the start"])
def test_stop_ends_the_run_and_keeps_what_it_reached(nodes, execute, output, pressed):
    def hook(value, total, preview, node_id=None):
        """ComfyUI's own raises where it finds that stop was pressed, and forgets it."""
        press = comfy.model_management.interrupt_current_processing
        at = 0 if pressed == "at the start" else 1
        if value == at and pressed != "in an iteration":
            press()
        comfy.model_management.throw_exception_if_processing_interrupted()
        if value == at:
            press()

    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            execute(nodes["DNOOptimize"], prompt="a cat", **{**FEW, "iterations": 50})
    finally:
        comfy.utils.set_progress_bar_global_hook(None)

    assert not comfy.model_management.processing_interrupted()
    run = dno.open_run(output / "dno" / "run_00001")
    assert run.status == "stopped"
    assert run.history[-1].iteration < 5
    image, *_ = execute(nodes["DNOOpenRun"], folder="dno/run_00001")
    assert image.shape == (1, 64, 64, 3)


WRONG = {
    "no prompt": ({"prompt": " \n"}, "prompt: is empty; say what to draw"),
    "a line": ({"settings": "eta"}, "settings: needs lines of the form PLACE=VALUE, got 'eta'"),
    "twice": ({"settings": "a=1\na=2"}, "settings: names 'a' twice"),
    "out": ({"folder": "../../home"}, "folder: needs a name inside ComfyUI's output folder"),
    "root": ({"folder": "/tmp/x"}, "folder: needs a name inside ComfyUI's output folder"),
    "drive": ({"folder": "C:\\runs"}, "folder: needs a name inside ComfyUI's output folder"),
}


@pytest.mark.parametrize(("given", "told"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_told_before_anything_is_queued(nodes, execute, output, given, told):
    node = nodes["DNOOptimize"]
    names = {key for key in inspect.signature(node.validate_inputs).parameters if key in given}
    assert names == set(given)
    said = node.validate_inputs(**given)
    assert isinstance(said, str)
    assert said.startswith(told)
    assert "\n" not in said
    # Whoever calls past that is told the same.
    with pytest.raises(dno.ConfigError) as caught:
        execute(node, **given)
    assert str(caught.value) == said
    assert not files(output)


def test_what_comes_along_a_wire_is_not_known_yet(nodes):
    assert nodes["DNOOptimize"].validate_inputs(None, None, None) is True
    assert nodes["DNOOptimize"].validate_inputs("a cat", "sampler.eta=1", "dno/run") is True
    assert nodes["DNOOpenRun"].validate_inputs(None) is True


LATER = {
    "no such reward": ({"reward": "nope"}, 'no reward is called "nope"'),
    "no such model": ({"other_model": "/no/where"}, "/no/where"),
    "no such option": ({"settings": "sampler.stepz=3"}, "stepz"),
    "an option of a reward": (
        {"rewards": ({"use": "jpeg", "weight": 1.0, "nope": 1},)},
        "rewards.1",
    ),
}


@pytest.mark.parametrize(("given", "told"), LATER.values(), ids=LATER.keys())
def test_what_dno_refuses_is_one_sentence_and_makes_no_folder(nodes, execute, output, given, told):
    with pytest.raises(dno.ConfigError) as caught:
        execute(nodes["DNOOptimize"], prompt="a cat", **{**FEW, **given})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not files(output)


def test_runs_are_read_from_the_output_folder_alone(nodes, execute, output, tmp_path):
    (output / "link").symlink_to(tmp_path)
    for folder in ("../here", "link/here"):
        assert nodes["DNOOpenRun"].validate_inputs(folder).startswith("folder: needs a name inside")
        with pytest.raises(dno.ConfigError, match="inside ComfyUI's output folder"):
            execute(nodes["DNOOpenRun"], folder=folder)
    with pytest.raises(dno.DNOError, match="not a run folder"):
        execute(nodes["DNOOpenRun"], folder="dno/run_00001")


def test_the_options_of_a_reward_are_not_its_inputs(nodes, execute):
    for line in ("use=clip", "weight=3"):
        with pytest.raises(dno.ConfigError, match="options: names"):
            execute(nodes["DNOReward"], reward="jpeg", options=line)


def test_videos_are_their_frames_and_sounds_are_refused():
    from dno_comfyui.values import comfy_images

    from dno.plugin import Medium, RunError

    frames = torch.rand(2, 5, 3, 4, 6)
    images = comfy_images(Medium("video", rate=8), frames)
    assert images.shape == (10, 4, 6, 3)
    assert torch.equal(images[7], frames[1, 2].permute(1, 2, 0))
    with pytest.raises(RunError, match="pictures"):
        comfy_images(Medium("audio", rate=16000), torch.rand(1, 2, 100))
