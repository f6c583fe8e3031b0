"""Noise from which DDIM draws a given picture."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from dno_builtin.regularizers.gaussianity import Gaussianity
from dno_builtin.regularizers.permutation import Permutation
from dno_builtin.samplers import _ddim as ddim
from dno_builtin.samplers._ddim import DDIMSampler
from dno_builtin.samplers._diffusers import fitting, invert
from dno_builtin.samplers.ddim import DDIM
from PIL import Image

import dno
from dno.core.noise import evaluation_generators
from dno.plugin import BuildContext, find_model, quiet

pytestmark = pytest.mark.slow

CONTEXT = BuildContext(device=torch.device("cpu"), dtype=torch.float32)


def bound(seeds=(0,), model="emoji", **options):
    config = DDIM(model=str(model), **options)
    config.check()
    return config.build(CONTEXT).bind(["a green frog"] * len(seeds), seeds)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A frog of the embedded model, which is something that it can draw."""
    with torch.no_grad():
        frog = bound((5,), steps=20)
        image = frog(frog.noise_BN)[0]
    bytes_HWC = (image.permute(1, 2, 0) * 255).round().byte().numpy()
    path = tmp_path_factory.mktemp("picture") / "frog.png"
    Image.fromarray(bytes_HWC).save(path)
    return path


def pixels(path):
    """A picture as the samplers give it."""
    values_HWC = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(values_HWC).permute(2, 0, 1)


@pytest.fixture(scope="module")
def found(picture):
    """A sampler of four steps that starts from the picture, bound to two seeds."""
    return bound(seeds=(0, 1), steps=4, start_image=picture)


def errors(found, picture):
    """Mean difference of pixels of each sample, in levels of 255."""
    with torch.no_grad():
        images = found(found.noise_BN)
    return 255 * (images - pixels(picture)).abs().mean((1, 2, 3))


def test_the_picture_comes_back(found, picture):
    assert (errors(found, picture) <= 4).all()
    assert not torch.allclose(found.noise_BN[0], found.noise_BN[1], atol=0.1)


def test_the_noise_is_as_ordinary_as_that_of_seeds(found):
    generators = evaluation_generators([0, 1], 0)
    assert (Permutation().build(CONTEXT)(found.noise_BN, generators).log_p_B > -4.6).all()
    report = Gaussianity().build(replace(CONTEXT, draws=tuple(found.draws)))
    figures = report(found.noise_BN, generators).figures
    assert len(figures) == 12
    for name, p_B in figures.items():
        assert (p_B > 1e-3).all(), name


def test_a_run_starts_from_it(picture):
    result = dno.optimize(
        "a green frog",
        reward="brightness",
        iterations=1,
        steps=4,
        settings={"sampler.start_image": str(picture)},
    )
    assert (result.initial.samples[0] - pixels(picture)).abs().mean() <= 4 / 255
    assert all(result.history[0].healthy)


def test_a_batch_of_two_is_two_of_one(picture, monkeypatch):
    # Few steps: later ones make much of differences of the last digit.
    monkeypatch.setattr(fitting, "ITERATIONS", 2)
    monkeypatch.setattr(invert, "NEAR", 1.0)
    options = {"steps": 4, "start_image": picture}
    both = bound(seeds=(3, 4), **options).noise_BN
    for i, seed in enumerate((3, 4)):
        alone = bound(seeds=(seed,), **options).noise_BN
        # A rounding may change the sign of a step that has next to no slope.
        assert (both[i] - alone[0]).square().mean().sqrt() < 1e-3


def test_each_prompt_and_seed_is_searched_for_once(picture, monkeypatch):
    monkeypatch.setattr(fitting, "ITERATIONS", 0)
    monkeypatch.setattr(invert, "NEAR", 1.0)
    sampler = DDIM(steps=2, start_image=picture).build(CONTEXT)
    first = sampler.bind(["a frog"], [0])
    monkeypatch.setattr(ddim, "noise_of", lambda *_: pytest.fail("searched again"))
    copies = sampler.bind(["a frog"] * 3, [0] * 3)
    assert torch.equal(copies.noise_BN, first.noise_BN.expand(3, -1))


def test_a_picture_that_the_decoder_cannot_show_is_refused(tmp_path):
    grains = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))
    file = tmp_path / "grains.png"
    Image.fromarray((grains * 255).byte().numpy()).save(file)
    message = r"start_image: the model's decoder draws .*grains.png no nearer than \d+\.\d/255"
    with pytest.raises(dno.ConfigError, match=message):
        bound(steps=2, start_image=file)


CHANGES = {
    "no last noise": {"set_alpha_to_one": True},
    "no signal at first": {
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "prediction_type": "v_prediction",
    },
    "the ODE": {},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
def test_where_none_is_found_the_run_is_refused_with_the_distance(picture, changes, monkeypatch):
    """Whatever the schedule, also one that ends without noise or starts without signal."""
    from diffusers import DiffusionPipeline

    monkeypatch.setattr(fitting, "ITERATIONS", 1)
    with quiet():
        pipe = DiffusionPipeline.from_pretrained(find_model("emoji"), dtype=torch.float32)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **changes)
    eta = 1.0 if changes else 0.0
    sampler = DDIMSampler(pipe, steps=10, eta=eta, start_image=picture)
    message = r"start_image: no ordinary noise was found .*: the nearest is \d+\.\d/255 off"
    with pytest.raises(dno.ConfigError, match=message):
        sampler.bind(["a green frog"], [0])


def test_noise_that_no_seed_would_draw_is_refused_by_the_name_of_its_test(picture, monkeypatch):
    monkeypatch.setattr(fitting, "ITERATIONS", 0)
    monkeypatch.setattr(invert, "NEAR", 1.0)
    monkeypatch.setattr(fitting, "Ordinary", lambda like_BN, draws: lambda noise_BN: noise_BN)
    with pytest.raises(dno.ConfigError, match=r"is no ordinary draw \(.*p_.*\); use another seed"):
        bound(steps=10, start_image=picture)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"start_image": "nowhere.png"}, "start_image: there is no file nowhere.png"),
        ({"last_steps": 2}, "start_image: needs all the noise to move"),
        (
            {"last_steps": 51, "start_image": None},
            "last_steps: must be at most 50, the number of steps, got 51",
        ),
    ],
    ids=["missing", "last steps", "too many last steps"],
)
def test_mistakes(picture, options, problem):
    with pytest.raises(dno.ConfigError, match=problem):
        bound(**({"start_image": picture} | options))


def test_a_file_that_is_no_picture(tmp_path):
    (tmp_path / "x.png").write_text("no picture")
    with pytest.raises(dno.ConfigError, match="start_image: .*x.png cannot be read as a picture"):
        DDIM(start_image=tmp_path / "x.png").check()


def test_a_run_that_goes_on_searches_no_more(picture, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "ITERATIONS", 0)
    monkeypatch.setattr(invert, "NEAR", 1.0)
    monkeypatch.setattr(invert, "unlikely", lambda *_: [])
    settings = {"observers": []}
    options = {"reward": "brightness", "steps": 2, "iterations": 1}
    by_sampler = settings | {"sampler.start_image": str(picture)}
    begun = dno.optimize("a frog", out=tmp_path / "run", settings=by_sampler, **options)
    options |= {"start": picture, "settings": settings}
    by_start = dno.optimize("a frog", out=tmp_path / "start", **options)
    assert torch.equal(by_start.best.noise_BN, begun.best.noise_BN)

    monkeypatch.setattr(ddim, "noise_of", lambda *_: pytest.fail("searched again"))
    for folder in ("run", "start"):
        longer = dno.resume(tmp_path / folder, iterations=2)
        assert torch.equal(longer.initial.noise_BN, begun.initial.noise_BN)
        assert longer.history[-1].iteration == 2


@pytest.mark.parametrize("by", ["sampler.start_image", "start"])
@pytest.mark.parametrize("at", [1, 2], ids=["before its first record", "after it"])
def test_an_item_of_a_study_that_goes_on_searches_no_more(picture, at, by, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "ITERATIONS", 0)
    monkeypatch.setattr(invert, "NEAR", 1.0)
    monkeypatch.setattr(invert, "unlikely", lambda *_: [])

    def study(folder, interrupt_at=-1):
        asked = []

        def brightness(images, prompts):
            asked.append(1)
            if len(asked) == interrupt_at:
                raise KeyboardInterrupt
            return images.mean(dim=(1, 2, 3))

        settings = {by: str(picture), "observers": []}
        options = {"reward": brightness, "steps": 2, "iterations": 2, "settings": settings}
        return dno.batch(["a frog"], out=tmp_path / folder, **options).runs()

    (whole,) = study("whole")
    with contextlib.suppress(KeyboardInterrupt):
        study("study", interrupt_at=at)
    monkeypatch.setattr(ddim, "noise_of", lambda *_: pytest.fail("searched again"))
    (again,) = study("study")
    assert torch.equal(again.noise("best"), whole.noise("best"))
    assert torch.equal(again.noise("initial"), whole.noise("initial"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"last_steps": 2}, "start: is a picture, from which a text-to-image model can start"),
        ({"sampler": "pipeline"}, "start: is a picture, and this sampler cannot find noise"),
    ],
    ids=["last steps", "another sampler"],
)
def test_a_start_that_no_search_is_made_for_is_told(picture, options, problem):
    with pytest.raises(dno.ConfigError, match=problem):
        dno.optimize("a frog", reward="brightness", steps=3, start=picture, **options)


def test_a_first_latent_is_not_taken_for_a_later_draw():
    latents = torch.randn(1, 24, 8, 8)
    options = {"reward": "brightness", "steps": 3, "iterations": 0}
    result = dno.optimize("a frog", start=latents, **options)
    assert torch.equal(result.initial.noise_BN[0, : latents.numel()], latents.flatten())
    with pytest.raises(dno.ConfigError, match="start: is the shape of the first latent, which"):
        dno.optimize("a frog", start=latents, last_steps=2, **options)
