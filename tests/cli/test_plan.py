"""`dno plan` on folders of configurations, with weights and without."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from dno.core.costs import GIB
from dno.errors import ConfigError
from dno.registry.configs import BuildContext
from dno.runs import room as rooms
from dno.runs.load import load
from dno.runs.plan import plan
from dno.runs.pose import pose
from dno.runs.run_config import RunConfig
from dno.testing.clip import save_tiny_clip

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parents[2] / "docs/figures/models"


@pytest.fixture(autouse=True)
def _empty_working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def bare(tiny_folder, tmp_path) -> Path:
    """A tiny pipeline's configuration files alone, without tokenizers."""
    folder = tmp_path / "bare"
    for file in tiny_folder.rglob("*config.json"):
        if file.parent.name != "tokenizer":
            (folder / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / file.parent.name)
    shutil.copy(tiny_folder / "model_index.json", folder)
    assert not list(folder.rglob("*.safetensors"))
    return folder


def planned(folder: Path, coarse: tuple[int, ...] = (2,), **changes: object) -> RunConfig:
    sampler = {"use": "ddim", "model": str(folder), "steps": 4, "memory": "keep"}
    return RunConfig.parse(
        {
            "prompts": ["a cat"],
            "rewards": ["brightness"],
            "device": "cpu",
            "coarse": coarse,
            "sampler": sampler | changes,
        }
    )


def test_a_folder_of_configurations_is_planned_as_the_model_itself(bare, tiny_folder):
    for memory in ("keep", "recompute", "0.001GiB"):
        with_weights = plan(planned(tiny_folder, memory=memory))
        without = plan(planned(bare, memory=memory))
        # What is free changes from one moment to the next.
        assert without.footprint._replace(room=0) == with_weights.footprint._replace(room=0)
        assert without.coarse[2].peak == with_weights.coarse[2].peak
    weights = sum(f.stat().st_size for f in tiny_folder.rglob("*.safetensors"))
    # Files have headers; safetensors rounds up.
    assert sum(without.footprint.weights.values()) == pytest.approx(weights, rel=0.2)
    assert without.coarse.keys() == {2}
    assert without.coarse[2].flop < without.footprint.flop


def test_the_plan_is_what_the_run_itself_goes_by(tiny_folder):
    config = planned(tiny_folder, memory="1GiB")
    made = plan(config).footprint
    posed = pose(load(config), config)
    own = posed.problem.sample.footprint
    # Weights that are there are counted as they are loaded.
    assert own == made


def test_weights_and_graphs_of_rewards_are_counted_in(bare, tmp_path):
    clip = save_tiny_clip(tmp_path / "clip")
    weights = (clip / "model.safetensors").stat().st_size
    plain = plan(planned(bare))
    config = planned(bare).model_copy(
        update={"rewards": RunConfig.parse(
            {"prompts": ["x"], "rewards": [{"use": "clip", "model": str(clip)}]}
        ).rewards}
    )  # fmt: skip
    (clip / "model.safetensors").unlink()
    judged = plan(config)
    assert judged.footprint.beside["rewards"] == pytest.approx(weights, abs=10_000)
    assert judged.footprint.graphs["rewards"] > plain.footprint.graphs["rewards"]
    assert judged.unknown == ()
    assert "not known" not in judged.text()


def test_what_is_parked_is_counted_where_there_is_memory_to_park_it_in(bare, monkeypatch):
    config = planned(bare, coarse=(), memory="100kB")
    plain = plan(config)
    assert not plain.footprint.parked
    assert "on the CPU" not in plain.text()

    monkeypatch.setattr(rooms, "aside_bytes", lambda _: None)
    found = plan(config)
    encoder = plain.footprint.weights["text_encoder"]
    assert found.footprint.parked == {"text_encoder": encoder}
    assert found.footprint.weights == plain.footprint.weights
    # All weights are there while prompts are bound, and nothing is kept yet.
    assert found.footprint.binding > sum(found.footprint.weights.values())
    assert found.footprint.peak == max(plain.footprint.peak - encoder, found.footprint.binding)
    assert "with text_encoder on the CPU once prompts are bound" in found.text()
    for row in ("parked on the CPU", "while binding"):
        assert row in found.text()


def test_what_a_reward_has_on_the_cpu_is_not_counted_as_a_gpus(tmp_path, monkeypatch):
    from transformers import CLIPModel

    monkeypatch.setattr(rooms, "free_bytes", lambda _: None)
    monkeypatch.setattr(rooms, "aside_bytes", lambda _: None)
    clip = save_tiny_clip(tmp_path / "clip")
    config = RunConfig.parse(
        {"prompts": ["a cat"], "rewards": [{"use": "clip", "model": str(clip), "frames": "all"}]}
    )
    context = BuildContext(torch.device("cpu"), torch.float32)
    around = rooms.Surroundings(config, context)

    def loaded(device: str) -> int:
        return around.room(torch.device(device)).beside((1, 3, 64, 64), 10).loaded

    model = CLIPModel.from_pretrained(clip)
    texts = [*model.text_model.parameters(), *model.text_projection.parameters()]
    size = sum(weight.nbytes for weight in (*texts, *model.text_model.buffers()))
    assert loaded("cpu") - loaded("cuda") == size


def test_it_ends_with_0_where_the_run_fits_and_with_1_where_it_does_not(dno, bare):
    args = ["plan", "a cat", "--reward", "brightness", "--model", bare, "--steps", 4]
    code, out, err = dno(*args, "--memory", "1GiB", "--coarse", "none")
    assert (code, err) == (0, "")
    assert "policy" in out
    assert "of 1.0 GiB: it fits" in out
    assert "what would free memory" not in out

    code, out, err = dno(*args, "--memory", "100kB", "--batch", 2, "--coarse", "none")
    assert (code, err) == (1, "")
    assert "are missing" in out
    assert "recompute block by block all of 4 network calls" in out
    for remedy in ("--batch 1", "half the height and width", "--dtype bfloat16", "fewer steps"):
        assert remedy in out


def test_mistakes_are_told_as_a_run_tells_them(dno, bare, tmp_path):
    args = ["plan", "a cat", "--reward", "brightness"]
    code, _, err = dno("plan", "a cat")
    assert (code, err) == (2, "dno: --reward: say what to climb, such as --reward brightness; "
                              "see: dno plugins list\n")  # fmt: skip
    code, _, err = dno(*args, "--model", bare, "--memory", "lots")
    assert code == 2
    assert "should be auto, keep, recompute, or a size such as 20GiB" in err
    code, _, err = dno(*args, "--model", bare, "--height", "13")
    assert code == 2
    assert "sampler.height: must be a multiple of 8" in err

    (bare / "unet" / "config.json").unlink()
    code, _, err = dno(*args, "--model", bare)
    assert code == 2
    assert f"sampler.model: {bare / 'unet'} holds no config.json" in err

    (tmp_path / "one.safetensors").write_bytes(b"x" * 20)
    code, _, err = dno(*args, "--model", tmp_path / "one.safetensors")
    assert code == 2
    assert "a plan reads configurations" in err
    code, _, err = dno(*args, "--model", "owner/not-here")
    assert code == 2
    assert "is not on this machine, and a plan downloads nothing" in err


def test_a_sampler_that_says_nothing_of_its_memory_cannot_be_planned():
    from dno.testing.toy import ToySampler

    config = RunConfig.parse(
        {"prompts": ["a cat"], "rewards": ["brightness"], "sampler": {"use": ToySampler()}}
    )
    with pytest.raises(ConfigError, match="cannot be planned"):
        plan(config)


def test_a_size_too_small_for_a_run_is_refused_with_what_is_missing(tiny_folder):
    config = planned(tiny_folder, memory="0.0005GiB")
    loaded = load(config)
    with pytest.raises(ConfigError, match=r"allows .*MiB.* less than the least .*smaller height"):
        pose(loaded, config)


def test_a_full_size_model_is_planned_from_its_configuration():
    """Against figures that were traced apart: a step of Stable Diffusion 1.5 with guidance keeps
    2,951 MiB in float32, and its decoder 5,688 MiB at 512 px; 1.354 and 1.348 TFLOP a pass."""
    found = plan(planned(MODELS / "sd-1.5", coarse=(), steps=1, memory="keep")).footprint
    assert found.weights["unet"] == pytest.approx(3279 * 2**20, rel=0.001)
    assert found.graphs["network"] == pytest.approx(3051 * 2**20, rel=0.002)
    assert found.graphs["decoder"] == pytest.approx(5822 * 2**20, rel=0.002)
    assert found.flop == pytest.approx(1e12 * (1.354 + 1.348 + 2 * 2.48), rel=0.01)
    assert 8 * GIB < found.peak < 14 * GIB
