"""Rewards that are learnt from picks, on features of a CLIP model's image tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from dno_builtin.rewards.picks import Picker, Picks
from dno_builtin.rewards.picks_file import read_picks
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

import dno
from dno.core.function import FunctionSampler
from dno.plugin import BuildContext, ConfigError
from dno.runs.plan import plan
from dno.testing.clip import save_tiny_clip

pytestmark = pytest.mark.slow

CPU = BuildContext(device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def file(folder: Path, tmp_path: Path) -> Path:
    picker = Picker(tmp_path / "picks.jsonl", features="clip", model=str(folder))
    for number in range(4):
        first, *others = pictures(number)
        picker.add(first, others)
    return picker.file


def pictures(seed: int) -> torch.Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def config(file: Path, folder: Path, **options: Any) -> Picks:
    return Picks(file=file, features="clip", model=str(folder), **options)


def test_features_are_the_models_own(file: Path, folder: Path) -> None:
    """transformers' processor and tower on 8-bit pictures; `clip` preprocesses to 0.5/255."""
    shown = (pictures(0) * 255).round() / 255
    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPProcessor.from_pretrained(folder)
    seen = [Image.fromarray((one * 255).permute(1, 2, 0).to(torch.uint8).numpy()) for one in shown]
    with torch.no_grad():
        inputs = processor(images=seen, return_tensors="pt")
        expected = F.normalize(model.get_image_features(**inputs).pooler_output, dim=1)
    found = [Picker(file, features="clip", model=str(folder)).describe(one) for one in shown]
    assert torch.allclose(torch.tensor(found), expected, atol=1e-4)


def test_a_gradient_goes_through_the_tower(file: Path, folder: Path) -> None:
    reward = config(file, folder).build(CPU)
    shown = pictures(9).requires_grad_(True)
    value = reward(shown, ["a"] * 4)
    (slope,) = torch.autograd.grad(value.sum(), shown)
    assert slope.abs().sum() > 0
    alone = torch.cat([reward(one[None], ["a"]) for one in shown])
    assert torch.allclose(alone, value, atol=1e-5)


def test_features_of_another_kind_are_told(file: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='features: .* holds features "clip", not "colours"'):
        Picks(file=file).check()
    # Another model of the same size.
    other = save_tiny_clip(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match=r"model: .* features of another model than this one"):
        config(file, other).build(CPU)
    with pytest.raises(ConfigError, match=r"model: .* features of another model"):
        Picker(file, features="clip", model=str(other)).add(pictures(1)[0], pictures(1)[1:])
    # The embedded one makes more numbers, which its configuration tells.
    with pytest.raises(ConfigError, match="model: .* holds 8 features of each picture"):
        Picks(file=file, features="clip").check()
    config(file, folder, dtype="bfloat16").build(CPU)


def test_a_folder_without_a_processor_is_refused(file: Path, tmp_path: Path) -> None:
    bare = save_tiny_clip(tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="model: .* holds no processor"):
        config(file, bare).check()


def test_a_run_climbs_picks_and_is_repeated(
    file: Path, folder: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """The run folder names file, lines and model from the root, so that it goes on anywhere."""
    lines = read_picks(file).lines
    options: dict[str, Any] = {"model": tiny_folder, "steps": 3, "iterations": 3, "device": "cpu"}
    reward = {"use": "picks", "file": str(file), "lines": lines, "features": "clip"}
    climbed = dno.optimize(
        "a cat", reward={**reward, "model": str(folder)}, out=tmp_path / "run", **options
    )
    assert climbed.best.rewards["picks"][0] > climbed.initial.rewards["picks"][0]
    first, *others = pictures(10)
    Picker(file, features="clip", model=str(folder)).add(first, others)
    saved = dno.open_run(tmp_path / "run")
    again = dno.run(saved.config)
    assert torch.equal(again.best.samples, climbed.best.samples)
    assert saved.values["rewards"][0]["file"] == str(file)


def test_a_run_goes_on_with_the_picks_that_there_were(
    file: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """Whoever picks on while a run is stopped changes nothing for it, nor for its samples."""
    colours = tmp_path / "colours.jsonl"
    picker = Picker(colours)
    for number in range(3):
        picker.add(pictures(number)[0], pictures(number)[1:])
    options: dict[str, Any] = {"model": tiny_folder, "steps": 3, "device": "cpu"}
    reward = {"use": "picks", "file": str(colours)}
    whole = dno.optimize("a cat", reward=reward, iterations=4, **options)
    dno.optimize("a cat", reward=reward, iterations=2, out=tmp_path / "run", **options)
    session = dno.load(reward=reward, **options)
    for number in range(3, 6):
        picker.add(pictures(number)[3], pictures(number)[:3])

    assert dno.open_run(tmp_path / "run").values["rewards"][0]["lines"] == 4
    resumed = dno.resume(tmp_path / "run", iterations=4)
    assert torch.equal(resumed.best.samples, whole.best.samples)
    assert torch.equal(resumed.best.rewards["picks"], whole.best.rewards["picks"])
    # What was learnt from fewer picks judges nothing that says that it is of more.
    with pytest.raises(ConfigError, match=r"rewards\.0: differs from what was loaded"):
        session.optimize("a cat", iterations=1)
    after = dno.optimize("a cat", reward=reward, iterations=0, **options)
    assert not torch.equal(after.initial.rewards["picks"], whole.initial.rewards["picks"])


def test_the_items_of_a_study_are_judged_by_the_same_picks(tmp_path: Path) -> None:
    """With more picks the same command is refused, and told how it goes on."""
    picker = Picker(tmp_path / "colours.jsonl")
    picker.add(pictures(0)[0], pictures(0)[1:])

    def study(prompts: list[str], **others: Any) -> dno.Study:
        return dno.batch(
            prompts,
            out=tmp_path / "study",
            reward={"use": "picks", "file": picker.file},
            sampler=FunctionSampler(torch.sigmoid, [(3, 8, 8)]),
            settings={"observers": [], **others},
            iterations=1,
        )

    def lines() -> list[int]:
        return [run.values["rewards"][0]["lines"] for run in found.runs()]

    study(["a cat"])
    found = study(["a cat", "a dog"])
    assert lines() == [2, 2]
    picker.add(pictures(1)[0], pictures(1)[1:])
    with pytest.raises(ConfigError, match=r"a-cat-.*rewards\.0\.lines = 2, and it would be 3 now"):
        study(["a cat", "a dog", "a fox"])
    found = study(["a cat", "a dog", "a fox"], **{"rewards.0.lines": 2})
    assert lines() == [2, 2, 2]
    assert [row["standing"] for row in found.rows] == ["done"] * 3


def test_a_plan_needs_no_weights_of_the_tower(
    file: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    bare = save_tiny_clip(tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    reward = {"use": "picks", "file": file, "features": "clip", "model": str(bare)}
    sampler = {"use": "ddim", "model": str(tiny_folder), "steps": 3}
    values = {"prompts": ["a cat"], "rewards": [reward], "sampler": sampler, "device": "cpu"}
    made = plan(dno.RunConfig.parse(values))
    assert made.footprint is not None
