"""Noise from which DDIM draws a given picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dno_builtin.regularizers.permutation import Permutation
from dno_builtin.samplers.ddim import DDIM
from PIL import Image

import dno
from dno.core.noise import evaluation_generators
from dno.plugin import BuildContext, quiet

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


def drawn(**options):
    """The images that come of a picture, and the noise found for it."""
    found = bound(**options)
    with torch.no_grad():
        return found(found.noise_BN), found.noise_BN


def test_the_picture_comes_back_from_likely_noise(picture):
    images, noise_BN = drawn(seeds=(0, 1), steps=20, start_image=picture)
    assert (images - pixels(picture)).abs().mean() < 0.03
    assert not torch.allclose(noise_BN[0], noise_BN[1], atol=0.1)

    penalty = Permutation().build(CONTEXT)(noise_BN, evaluation_generators([0, 1], 0))
    assert (penalty.log_p_B > -4.6).all()


def test_the_ode_is_solved_backwards(picture):
    images, noise_BN = drawn(steps=50, eta=0.0, guidance_scale=1.0, start_image=picture)
    assert noise_BN.shape[1] == 24 * 8 * 8
    plain, _ = drawn(steps=50, eta=0.0, guidance_scale=1.0)
    error = (images - pixels(picture)).abs().mean()
    chance = (plain - pixels(picture)).abs().mean()
    assert error < 0.3 * chance


def test_a_batch_of_two_is_two_of_one(picture):
    _, both = drawn(seeds=(3, 4), steps=4, start_image=picture)
    for i, seed in enumerate((3, 4)):
        _, alone = drawn(seeds=(seed,), steps=4, start_image=picture)
        torch.testing.assert_close(both[i], alone[0], atol=1e-3, rtol=0)


def test_a_run_starts_from_it(picture):
    result = dno.optimize(
        "a green frog",
        reward="brightness",
        iterations=1,
        steps=4,
        settings={"sampler.start_image": str(picture)},
    )
    assert (result.initial.samples[0] - pixels(picture)).abs().mean() < 0.05


def test_a_schedule_that_ends_without_noise_and_one_that_starts_without_signal(picture):
    from diffusers import DiffusionPipeline
    from dno_builtin.samplers._ddim import DDIMSampler

    from dno.plugin import find_model

    with quiet():
        pipe = DiffusionPipeline.from_pretrained(find_model("emoji"), dtype=torch.float32)

    for changes in (
        {"set_alpha_to_one": True},
        {
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
            "prediction_type": "v_prediction",
        },
    ):
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **changes)
        found = DDIMSampler(pipe, steps=50, start_image=picture).bind(["a green frog"], [0])
        with torch.no_grad():
            images = found(found.noise_BN)
        assert found.noise_BN.isfinite().all()
        assert images.isfinite().all()


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
