"""`--batch auto` on real tiny models: what fits, what is recorded, and who goes on with it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import dno
from dno.core.costs import GIB
from dno.errors import ConfigError
from dno.runs.batch_size import DEARER, MARGIN, MOST, RECORD, gain, how_many
from dno.runs.plan import plan
from dno.runs.room import CPU_WASTE
from dno.runs.run_config import RunConfig
from dno.testing.models import tiny_stable_diffusion

pytestmark = pytest.mark.slow

PROMPTS = ("a cat", "a dog", "a bird", "a fox", "a pig")
QUICK = {"steps": 2, "iterations": 1, "coarse": "none", "device": "cpu"}


@pytest.fixture(autouse=True)
def _empty_working_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


class Counting:
    """A reward, with how many pictures it was asked about at once."""

    __name__ = "bright"

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, images, prompts):
        self.sizes.append(len(images))
        return images.mean(dim=(1, 2, 3))


def configured(folder: Path, samples: int = 1, **sampler: object) -> RunConfig:
    return RunConfig.parse(
        {
            "prompts": ["a cat"],
            "seeds": list(range(samples)),
            "rewards": ["brightness"],
            "device": "cpu",
            "coarse": [],
            "sampler": {"use": "ddim", "model": str(folder), "steps": 8, **sampler},
        }
    )


def test_it_is_what_fits_and_makes_most_a_second(tiny_folder):
    made: list[int] = []
    # From where one sample hardly fits to where the most of them keep all.
    for memory in ("0.345GiB", "0.36GiB", "0.38GiB", "1GiB"):
        found = how_many(configured(tiny_folder, memory=memory))
        made.append(found.items)
        assert found.room == int(float(memory.removesuffix("GiB")) * GIB)

        one = plan(configured(tiny_folder, memory=memory)).footprint
        best = plan(configured(tiny_folder, found.items, memory=memory)).footprint
        assert found.peak == best.peak
        assert found.items == 1 or best.peak <= found.room * (1 - max(CPU_WASTE, MARGIN))
        assert best.passes <= DEARER * one.passes
        assert gain(found.items) / best.passes >= gain(1) / one.passes
        if found.items < MOST:
            more = plan(configured(tiny_folder, found.items + 1, memory=memory)).footprint
            # One more does not fit, or has more computed once more than it gains.
            assert more.passes > best.passes or more.peak > found.room * (1 - CPU_WASTE)
    assert made[0] < MOST
    assert made[-1] == MOST


def test_a_policy_by_name_is_kept_to(tiny_folder):
    found = how_many(configured(tiny_folder, memory="recompute"), most=3)
    assert found.items == 3
    same = plan(configured(tiny_folder, 3, memory="recompute")).footprint
    assert found.peak == same.peak


def test_a_study_says_and_keeps_what_was_decided(tiny_folder, dno):
    Path("prompts.txt").write_text("\n".join(PROMPTS))
    command = ["batch", "prompts.txt", "--reward", "brightness", "--model", tiny_folder, "--out"]
    quick = ["--steps", 2, "--iterations", 1, "--coarse", "none", "--no-report"]
    code, out, _ = dno(*command, "study", *quick, "--batch", "auto", "--memory", "2GiB")
    assert code == 0
    assert out.splitlines()[0].startswith("5 items side by side: ")
    assert out.splitlines()[0].endswith(" of 2.0 GiB")
    (entry,) = tomllib.loads(Path("study", RECORD).read_text()).values()
    assert entry["items"] == 5
    assert entry["room"] == 2 * GIB

    # The same items alone, to rounding.
    assert dno(*command, "alone", *quick, "--memory", "2GiB")[0] == 0
    ours = {str(run.items): run.result["best"]["rewards"] for run in runs("study")}
    theirs = {str(run.items): run.result["best"]["rewards"] for run in runs("alone")}
    assert ours.keys() == theirs.keys()
    for items, rewards in ours.items():
        assert rewards["brightness"] == pytest.approx(theirs[items]["brightness"], abs=1e-5)


def runs(folder: str):
    return dno.list_runs(Path(folder) / "items")


def test_who_goes_on_makes_the_same_groups_whatever_is_free_then(tiny_folder, capsys):
    reward = Counting()

    def study(prompts=PROMPTS, **options):
        given = {"reward": reward, "sampler": {"use": "ddim", "model": str(tiny_folder)}, **QUICK}
        return dno.batch(prompts, out="study", memory="8GiB", size="auto", **given, **options)

    study(PROMPTS[:2], part=(1, 2))
    file = Path("study", RECORD)
    assert [one["items"] for one in tomllib.loads(file.read_text()).values()] == [2]
    # There were no more to be together; now there are.
    study(part=(1, 5))
    (kind,) = tomllib.loads(file.read_text())
    assert tomllib.loads(file.read_text())[kind]["items"] == len(PROMPTS)

    # As a process with less memory would have decided it.
    file.write_text(f"[{kind}]\nitems = 2\npeak = 1\nroom = 2\n")
    reward.sizes.clear()
    assert not study().failed
    assert max(reward.sizes) == 2
    assert tomllib.loads(file.read_text())[kind]["items"] == 2


def test_a_pipeline_that_is_loaded_needs_a_number(tmp_path):
    with pytest.raises(
        ConfigError, match=r"cannot be told \(sampler.model: the pipeline is loaded"
    ):
        dno.batch(
            PROMPTS,
            out=tmp_path / "study",
            reward="brightness",
            model=tiny_stable_diffusion(),
            size="auto",
            **QUICK,
        )


def test_a_plan_tells_how_many_fit(tiny_folder, dno):
    args = ["plan", "--reward", "brightness", "--model", tiny_folder, "--steps", 2]
    code, out, err = dno(*args, "a cat", "--memory", "2GiB", "--batch", "auto")
    assert (code, err) == (0, "")
    assert out.startswith("--batch 16  16 items side by side: ")
    _, out, _ = dno(*args, "a cat", "a dog", "a bird", "--memory", "2GiB", "--batch", "auto")
    assert out.startswith("--batch 5  16 items side by side: ")
    _, _, err = dno("optimize", "a cat", "--reward", "brightness", "--batch", "auto")
    assert "dno plan ... --batch auto tells how many fit" in err
