"""Whatever people have done to a live pipeline, its gradient is right, or its state is named.

Each state is put on a tiny pipeline of its own, and the gradient for the noise is compared with
finite differences of the images that the same sampler draws; where the state is not to change what
is computed, with the plain pipeline's too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from dno_builtin.samplers._pipeline import PipelineSampler
from tiny_families import tiny_call, tiny_pipeline
from torch import Tensor, nn

from dno.plugin import ConfigError, quiet

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
MODELS = ("sd1", "sdxl", "flux")


def network(pipe: Any) -> Any:
    """The pipeline's denoising network."""
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def put_network(pipe: Any, module: Any) -> None:
    setattr(pipe, "unet" if hasattr(pipe, "unet") else "transformer", module)


@dataclass(frozen=True)
class State:
    """Something that people do to a live pipeline."""

    name: str
    put: Callable[[Any], None]
    models: tuple[str, ...] = MODELS
    same: bool = True
    """Whether it leaves what is computed as it was."""
    near: float = 1e-4
    """How far from the plain pipeline's gradient it may be, as a share of its length."""
    tolerance: float = 0.02
    """How far finite differences may be from the gradient, as a share of its length."""
    told: str | None = None
    """What is said of it before the run; None for nothing."""
    needs: str | None = None
    """A library that it needs."""

    def __str__(self) -> str:
        return self.name


def quietly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    with quiet():
        function(*args, **kwargs)


def model_offload(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def sequential_offload(pipe: Any) -> None:
    pipe.enable_sequential_cpu_offload(device="cpu")
    assert any(weight.is_meta for weight in network(pipe).parameters())


def group_offload(pipe: Any, kind: str) -> None:
    blocks = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    pipe.enable_group_offload(CPU, offload_device=CPU, offload_type=kind, **blocks)


def offload_after_a_call(pipe: Any) -> None:
    model_offload(pipe)
    call = {"num_inference_steps": 1, "output_type": "pt", **SMALL.get(type(pipe).__name__, {})}
    quietly(pipe, "a cat", **call)


SMALL = {"FluxPipeline": tiny_call("flux")}


def mapped(pipe: Any) -> None:
    """As `device_map` leaves it, though here there is one device to map to."""
    from accelerate import dispatch_model

    names = [name for name, _ in network(pipe).named_children()]
    places = dict.fromkeys(names, "cpu")
    dispatch_model(network(pipe), places, force_hooks=True)
    pipe.hf_device_map = {"unet": "cpu"}


def layerwise(pipe: Any, storage: torch.dtype) -> None:
    network(pipe).enable_layerwise_casting(storage_dtype=storage, compute_dtype=torch.float32)


def compiled_wrapper(pipe: Any) -> None:
    put_network(pipe, torch.compile(network(pipe)))


def compiled_in_place(pipe: Any) -> None:
    network(pipe).compile()
    pipe.vae.decode = torch.compile(pipe.vae.decode)
    pipe.text_encoder = torch.compile(pipe.text_encoder)


def compiled_block(pipe: Any) -> None:
    pipe.unet.mid_block = torch.compile(pipe.unet.mid_block)


def compiled_and_offloaded(pipe: Any) -> None:
    network(pipe).compile()
    model_offload(pipe)


def fused(pipe: Any) -> None:
    network(pipe).fuse_qkv_projections()


def sliced_attention(pipe: Any) -> None:
    pipe.enable_attention_slicing(1)


def sliced_vae(pipe: Any) -> None:
    pipe.vae.enable_slicing()


def tiled_vae(pipe: Any) -> None:
    pipe.vae.enable_tiling()
    pipe.vae.tile_latent_min_size = 4
    pipe.vae.tile_sample_min_size = 8


def free_u(pipe: Any) -> None:
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)


def perturbed_attention(pipe: Any) -> None:
    from diffusers.models.attention_processor import PAGIdentitySelfAttnProcessor2_0

    processors = dict(pipe.unet.attn_processors)
    for name in processors:
        if "mid_block" in name and "attn1" in name:
            processors[name] = PAGIdentitySelfAttnProcessor2_0()
    pipe.unet.set_attn_processor(processors)


def checkpointed(pipe: Any) -> None:
    network(pipe).enable_gradient_checkpointing()
    network(pipe).train()


def trained(pipe: Any) -> None:
    network(pipe).requires_grad_(True).train()


def without_gradients(pipe: Any) -> None:
    for part in (network(pipe), pipe.vae, pipe.text_encoder):
        part.requires_grad_(False)


def torchao(pipe: Any) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quietly(quantize_, network(pipe), Int8WeightOnlyConfig())
    quietly(quantize_, pipe.text_encoder, Int8WeightOnlyConfig())


def adapted(pipe: Any) -> None:
    from peft import LoraConfig

    # `init_lora_weights`: random ones, not zeros.
    config = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    quietly(network(pipe).add_adapter, config)


def adapted_and_cast(pipe: Any) -> None:
    adapted(pipe)
    layerwise(pipe, torch.float8_e4m3fn)


def eight_bits(pipe: Any) -> None:
    import bitsandbytes as bnb

    pack(network(pipe), functools.partial(bnb.nn.Linear8bitLt, has_fp16_weights=False), 1)


def four_bits(pipe: Any) -> None:
    import bitsandbytes as bnb
    from diffusers import UNet2DConditionModel

    # Rows of four bits have lengths that the tiny network's have not.
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        config = {**pipe.unet.config, "block_out_channels": (32, 64), "norm_num_groups": 8}
        pipe.unet = UNet2DConditionModel.from_config(config)
    linear = functools.partial(bnb.nn.Linear4bit, compute_dtype=torch.float32, quant_type="nf4")
    pack(pipe.unet, linear, 64)


def pack(root: nn.Module, made: Callable[..., Any], multiple: int) -> None:
    """Put quantised layers in place of those whose sizes are multiples of a number."""
    count = 0
    for module in list(root.modules()):
        for name, child in list(module.named_children()):
            if type(child) is not nn.Linear:
                continue
            if child.in_features % multiple or child.out_features % multiple:
                continue
            layer = made(child.in_features, child.out_features, child.bias is not None)
            layer.load_state_dict(child.state_dict())
            setattr(module, name, layer.to("cpu"))
            count += 1
    assert count > 3


WORKING = (
    State("plain", lambda pipe: None),
    State("model offload", model_offload, told="its offloading is set aside"),
    State(
        "model offload, after a call",
        offload_after_a_call,
        ("sd1", "sdxl"),
        told="offloading is set aside",
    ),
    State("sequential offload", sequential_offload, told="offloading is set aside"),
    State("group offload, leaves", functools.partial(group_offload, kind="leaf_level"), told="off"),
    State("group offload, blocks", functools.partial(group_offload, kind="block_level"), told="o"),
    State("device map", mapped, told="offloading is set aside"),
    State(
        "layerwise casting, bfloat16",
        functools.partial(layerwise, storage=torch.bfloat16),
        ("sd1",),
        near=0.1,
        told="its layerwise casting is set aside",
    ),
    State(
        "layerwise casting, float8",
        functools.partial(layerwise, storage=torch.float8_e4m3fn),
        same=False,
        told="its layerwise casting is set aside",
    ),
    State("torch.compile of a network", compiled_wrapper, told="does without torch.compile"),
    State("torch.compile in place", compiled_in_place, ("sd1",), told="does without torch.compile"),
    State("torch.compile of a block", compiled_block, ("sd1",), told="without torch.comp"),
    State("torch.compile and offload", compiled_and_offloaded, ("sd1",), told="set aside"),
    State("fused projections", fused),
    State("attention slicing", sliced_attention, ("sd1",)),
    State("VAE slicing", sliced_vae, ("sd1",)),
    State("VAE tiling", tiled_vae, ("sd1",), same=False),
    State("FreeU", free_u, ("sd1", "sdxl"), same=False),
    State("perturbed attention", perturbed_attention, ("sd1",), same=False),
    State("gradient checkpointing", checkpointed),
    State("weights with gradients", trained, ("sd1",)),
    State("weights without gradients", without_gradients, ("sd1",)),
    State("LoRA, not fused", adapted, same=False, needs="peft"),
    State(
        "LoRA and layerwise casting",
        adapted_and_cast,
        ("sd1",),
        same=False,
        told="casting is set aside",
        needs="peft",
    ),
    State("torchao int8 weights", torchao, same=False, needs="torchao"),
    # It rounds what goes into its layers, too; the gradient is that of what is not rounded.
    State(
        "bitsandbytes int8 weights", eight_bits, same=False, tolerance=0.06, needs="bitsandbytes"
    ),
    State("bitsandbytes nf4 weights", four_bits, ("sd1",), same=False, needs="bitsandbytes"),
)
CASES = [
    pytest.param(model, state, id=f"{model}-{state.name}")
    for state in WORKING
    for model in state.models
]


def bound(pipe: Any, name: str) -> Any:
    call = tiny_call(name)
    sizes = {side: call.pop(side, None) for side in ("height", "width")}
    sampler = PipelineSampler(pipe, steps=2, **sizes, options=call)
    return sampler.bind(["a cat", "a dog"], [0, 1])


def gradient(drawn: Any) -> tuple[Tensor, Tensor]:
    """The images, and the gradient of a weighted sum of them."""
    leaf_BN = drawn.noise_BN.clone().requires_grad_()
    images = drawn(leaf_BN)
    (slope_BN,) = torch.autograd.grad(score(images), leaf_BN)
    return images.detach(), slope_BN


def score(images: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, images[0].numel()).reshape(images[0].shape)
    return (images * weights).sum(dtype=torch.float64)


@functools.lru_cache
def plain(name: str) -> tuple[Tensor, Tensor]:
    return gradient(bound(tiny_pipeline(name), name))


def facts(pipe: Any) -> dict[str, Any]:
    """All of a pipeline that a run might change."""
    found: dict[str, Any] = {"own": {k: v for k, v in vars(pipe).items() if k != "_all_hooks"}}
    for name, part in pipe.components.items():
        if not isinstance(part, nn.Module):
            continue
        for place, module in part.named_modules():
            found[f"{name}.{place}"] = (module.training, set(vars(module)), len(module._modules))
        for place, weight in (*part.named_parameters(), *part.named_buffers()):
            left = {key for key, value in vars(weight).items() if value is not None}
            form = weight.dtype, weight.device, weight.requires_grad, left
            found[f"{name}.{place}="] = form, weight.data_ptr() if plain_weight(weight) else 0
    return found


def plain_weight(weight: Tensor) -> bool:
    return type(weight) in (Tensor, nn.Parameter)


@pytest.mark.parametrize(("name", "state"), CASES)
def test_gradients_are_right_in_every_state(
    name: str, state: State, caplog: pytest.LogCaptureFixture
) -> None:
    if state.needs is not None:
        pytest.importorskip(state.needs)
    expected_images, expected_BN = plain(name)
    pipe = tiny_pipeline(name)
    quietly(state.put, pipe)
    before = facts(pipe)

    drawn = bound(pipe, name)
    images, slope_BN = gradient(drawn)
    said = [record.getMessage() for record in caplog.records if record.name == "dno"]
    if state.told is None:
        assert not said
    else:
        assert state.told in "".join(said)

    assert facts(pipe) == before
    if state.same:
        assert (images - expected_images).abs().max() < state.near
        assert (slope_BN - expected_BN).norm() < state.near * expected_BN.norm()

    # Along the gradient itself, where a share that is missing shows most, and along noise.
    noise_BN = drawn.noise_BN
    chance_BN = torch.randn(noise_BN.shape, generator=torch.Generator().manual_seed(0))
    for along_BN in (slope_BN / slope_BN.norm(), chance_BN / chance_BN.norm()):
        step = 0.02 * noise_BN.norm()
        up, down = (score(drawn(noise_BN + sign * step * along_BN)) for sign in (1, -1))
        measured = float((up - down) / (2 * step))
        stated = float((slope_BN * along_BN).sum())
        assert abs(measured - stated) < state.tolerance * float(slope_BN.norm())


class Cut(nn.Module):
    """A block that is computed under something that records no gradient."""

    def __init__(self, inner: nn.Module, mode: Callable[[], Any]) -> None:
        super().__init__()
        self.inner = inner
        self.mode = mode

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with self.mode():
            result = self.inner(*args, **kwargs)
        return result.clone() if isinstance(result, Tensor) else result


def cut(pipe: Any, mode: Callable[[], Any]) -> None:
    block = pipe.unet.down_blocks[0].resnets[0]
    block.conv2 = Cut(block.conv2, mode)


def cut_attention(pipe: Any) -> None:
    from diffusers.models.attention_processor import AttnProcessor2_0

    class Fast(AttnProcessor2_0):
        @torch.no_grad()
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    pipe.unet.set_attn_processor(Fast())


def cut_decoder(pipe: Any) -> None:
    pipe.vae.decoder.mid_block = Cut(pipe.vae.decoder.mid_block, torch.no_grad)


def forward_of_a_block(pipe: Any) -> None:
    known: list[Any] = []
    block = pipe.unet.mid_block
    forward = block.forward

    def cached(*args: Any, **kwargs: Any) -> Any:
        if not known:
            known.append(forward(*args, **kwargs))
        return known[0]

    block.forward = cached


def forward_hook(pipe: Any) -> None:
    pipe.unet.mid_block.register_forward_hook(lambda module, args, result: result.detach())


def first_block_cache(pipe: Any) -> None:
    from diffusers.hooks import FirstBlockCacheConfig

    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))


def on_disk(pipe: Any, folder: str) -> None:
    pipe.unet.enable_group_offload(
        CPU, offload_type="leaf_level", offload_to_disk_path=folder, low_cpu_mem_usage=True
    )


def rounded_activations(pipe: Any) -> None:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quietly(quantize_, pipe.unet, Int8DynamicActivationInt8WeightConfig())


def quantised_and_offloaded(pipe: Any) -> None:
    torchao(pipe)
    sequential_offload(pipe)


def four_bits_for_the_cpu(pipe: Any) -> None:
    four_bits(pipe)
    weight = next(w for w in pipe.unet.parameters() if hasattr(w, "quant_state"))
    # What the first call leaves, on CPUs that have that form.
    weight.quant_state.packing_format_for_cpu = True


def on_meta(pipe: Any) -> None:
    pipe.vae.to("meta")


def float8(pipe: Any) -> None:
    pipe.unet.to(torch.float8_e4m3fn)


def float8_encoder(pipe: Any) -> None:
    pipe.text_encoder.to(torch.float8_e4m3fn)


@dataclass(frozen=True)
class Refused:
    """A state in which a pipeline cannot be sampled, and what is said of it."""

    name: str
    put: Callable[[Any], None]
    told: str
    model: str = "sd1"
    needs: str | None = None
    late: bool = False
    """Whether it takes a gradient to see it."""


GRADIENT = r"the pipeline's {} computes a part of its answer without a gradient \(in "
REFUSED = (
    Refused("no_grad", functools.partial(cut, mode=torch.no_grad), GRADIENT, late=True),
    Refused("inference", functools.partial(cut, mode=torch.inference_mode), GRADIENT, late=True),
    Refused("attention under no_grad", cut_attention, GRADIENT, late=True),
    Refused("decoder under no_grad", cut_decoder, GRADIENT.replace("{}", "vae"), late=True),
    Refused("another forward", forward_of_a_block, "in place of its mid_block.forward, as DeepC"),
    Refused("a forward hook", forward_hook, r"has a forward hook \(on mid_block\), .* remove it"),
    Refused("a cache", first_block_cache, "transformer has hooks of diffusers .* without", "flux"),
    Refused("rounded activations", rounded_activations, "rounds .* alone", needs="torchao"),
    Refused(
        "quantised and sequential", quantised_and_offloaded, "sequential .* with", needs="torchao"
    ),
    Refused("weights for inference", four_bits_for_the_cpu, "anew", needs="bitsandbytes"),
    Refused("weights on meta", on_meta, "vae has weights on the meta device"),
    Refused("float8 encoder", float8_encoder, "text_encoder is in float8_e4m3fn"),
    Refused("float8", float8, "unet is in float8_e4m3fn, in which .* dtype=bfloat16"),
)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_state_without_a_right_gradient_is_named(case: Refused) -> None:
    if case.needs is not None:
        pytest.importorskip(case.needs)
    pipe = tiny_pipeline(case.model)
    quietly(case.put, pipe)
    told = case.told.format("unet")
    if not case.late:
        with pytest.raises(ConfigError, match=told):
            PipelineSampler(pipe, steps=2)
        return
    drawn = bound(pipe, case.model)
    with pytest.raises(ConfigError, match=told):
        gradient(drawn)


def test_stored_in_eight_bits_it_computes_in_what_is_chosen() -> None:
    pipe = tiny_pipeline("sd1")
    float8(pipe)
    float8_encoder(pipe)
    drawn = PipelineSampler(pipe, steps=2, dtype=torch.bfloat16).bind(["a cat"], [0])
    _, slope_BN = gradient(drawn)
    assert slope_BN.isfinite().all()
    assert slope_BN.abs().max() > 0


def test_weights_that_were_moved_to_files_are_named(tmp_path: Path) -> None:
    pipe = tiny_pipeline("sd1")
    quietly(on_disk, pipe, str(tmp_path))
    with pytest.raises(ConfigError, match=r"unet has its weights in files .* offload to the CPU"):
        PipelineSampler(pipe, steps=2)


def test_quantised_weights_are_neither_cast_nor_moved() -> None:
    pytest.importorskip("torchao")
    pipe = tiny_pipeline("sd1")
    torchao(pipe)
    with pytest.raises(ConfigError, match=r"compute in float32, and cannot be cast to bfloat16"):
        PipelineSampler(pipe, steps=2, dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match=r"\(Int8Tensor\) on cpu, which stay where they are"):
        PipelineSampler(pipe, steps=2, device=torch.device("meta"))
