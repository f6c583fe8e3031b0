"""LoRA weights as diffusers saves them, merged at their strength."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from dno_builtin.samplers.ddim import DDIM
from dno_builtin.samplers.pipeline import Pipeline

from dno.errors import ConfigError
from dno.plugin import BuildContext
from dno.testing.models import tiny_stable_diffusion

pytestmark = pytest.mark.slow

peft = pytest.importorskip("peft")
CONTEXT = BuildContext(device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """A folder with random LoRA weights for the tiny pipeline's attention layers."""
    pipe = tiny_stable_diffusion("sd1")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        pipe.unet.add_adapter(
            peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
        )
    folder = tmp_path_factory.mktemp("lora")
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=peft.get_peft_model_state_dict(pipe.unet)
    )
    return folder


def drawn(config):
    """The image that a sampler makes of one item."""
    bound = config.build(CONTEXT).bind(["a cat"], [3])
    with torch.no_grad():
        return bound(bound.noise_BN)


def stock(folder, lora, strength):
    """The image that diffusers makes of the same item."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(lora)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    return pipe(
        "a cat",
        generator=torch.Generator().manual_seed(3),
        num_inference_steps=3,
        eta=1.0,
        guidance_scale=5.0,
        output_type="pt",
        cross_attention_kwargs={"scale": strength},
    ).images


@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_the_image_is_that_of_the_stock_pipeline_with_these_weights(tiny_folder, lora, strength):
    found = drawn(DDIM(model=str(tiny_folder), steps=3, loras=(f"{lora}={strength}",)))
    assert (found - drawn(DDIM(model=str(tiny_folder), steps=3))).abs().max() > 1e-3
    torch.testing.assert_close(found, stock(tiny_folder, lora, strength), atol=1e-4, rtol=0)


def test_two_add_up_and_a_file_will_do(tiny_folder, lora):
    file = next(lora.glob("*.safetensors"))
    once = drawn(Pipeline(model=str(tiny_folder), steps=3, loras=(str(lora),)))
    halves = drawn(Pipeline(model=str(tiny_folder), steps=3, loras=(f"{file}=0.5", f"{lora}=0.5")))
    torch.testing.assert_close(halves, once, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("lora", "problem"),
    [
        ("nowhere", "loras.0: nowhere holds no LoRA weights"),
        ("loras/missing.safetensors", "loras.0: loras/missing.safetensors holds no LoRA weights"),
        ("x=nan", "loras.0: needs the form PATH or PATH=STRENGTH, got 'x=nan'"),
        (
            "some/adapter=big",
            "loras.0: needs the form PATH or PATH=STRENGTH, got 'some/adapter=big'",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_loads(tiny_folder, lora, problem):
    with pytest.raises(ConfigError, match=problem):
        DDIM(model=str(tiny_folder), loras=(lora,)).check()


def test_weights_of_another_model_are_refused(pipeline_folders, tmp_path, lora):
    from safetensors.torch import load_file, save_file

    (tmp_path / "other").mkdir()
    weights = load_file(next(lora.glob("*.safetensors")))
    larger = {}
    for name, weight in weights.items():
        rows, columns = weight.shape
        larger[name] = torch.zeros(rows + 1, columns + 1)
    save_file(larger, tmp_path / "other" / "x.safetensors")
    with pytest.raises(ConfigError, match="loras.0: .* does not fit a StableDiffusionPipeline"):
        DDIM(model=str(pipeline_folders("sd1")), loras=(str(tmp_path / "other"),)).build(CONTEXT)


def test_a_pipeline_that_is_loaded_brings_its_own():
    with pytest.raises(ConfigError, match="loras: .*load them into the pipeline"):
        DDIM(model=tiny_stable_diffusion("sd1"), loras=("x",)).check()
