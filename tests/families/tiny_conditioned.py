"""Tiny real pipelines that take pictures besides a prompt, or make videos or sounds.

Each is made of the networks of a family of `tiny_families`, in the class of diffusers that
full-size models of its kind load as; what a kind has besides is built here.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tiny_families import tiny_call, tiny_pipeline

if TYPE_CHECKING:
    from PIL.Image import Image

_Extra = Callable[[Mapping[str, Any]], Any]
"""How to build a part from those that are there."""


@dataclass(frozen=True)
class _Kind:
    family: str
    """Whose networks it has."""
    pipeline: str
    ours: Mapping[str, Any]
    """Our options: pictures by their kind, and numbers."""
    stock: Mapping[str, Any]
    """The same as diffusers' arguments."""
    extras: Mapping[str, _Extra] = field(default_factory=dict)
    size: int = 16
    """Height and width, in pixels."""
    draws: int = 1
    """Gaussian draws that can move what is made, in 3 steps asked for."""


def _wide_unet(channels: int) -> _Extra:
    """The family's UNet with more input channels."""

    def build(parts: Mapping[str, Any]) -> Any:
        unet = parts["unet"]
        return type(unet).from_config(unet.config, in_channels=channels).eval()

    return build


def _awake(net: Any) -> Any:
    """A ControlNet whose last convolutions, which begin at zero, have weights."""
    import torch

    for name, weight in net.named_parameters():
        if weight.ndim > 1 and not weight.any():
            torch.nn.init.normal_(weight, std=0.2)
            assert name
    return net.eval()


def _controlnet(parts: Mapping[str, Any]) -> Any:
    from diffusers import ControlNetModel

    net = ControlNetModel.from_unet(
        parts["unet"], conditioning_embedding_out_channels=(8, 8), load_weights_from_unet=False
    )
    return _awake(net)


def _flux_controlnet(parts: Mapping[str, Any]) -> Any:
    from diffusers import FluxControlNetModel

    net = FluxControlNetModel.from_transformer(
        parts["transformer"],
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        load_weights_from_transformer=False,
    )
    return _awake(net)


def _flux_of(channels: int) -> _Extra:
    """The family's network with more input channels."""

    def build(parts: Mapping[str, Any]) -> Any:
        net = parts["transformer"]
        return type(net).from_config(net.config, in_channels=channels, out_channels=16).eval()

    return build


def _sd3_controlnet(parts: Mapping[str, Any]) -> Any:
    from diffusers import SD3ControlNetModel

    net = SD3ControlNetModel.from_transformer(
        parts["transformer"],
        num_layers=1,
        num_extra_conditioning_channels=0,
        load_weights_from_transformer=False,
    )
    return _awake(net)


def _sd3_of_16_channels(parts: Mapping[str, Any]) -> Any:
    net = parts["transformer"]
    return type(net).from_config(net.config, in_channels=16, out_channels=16).eval()


def _vae_of_16_channels(parts: Mapping[str, Any]) -> Any:
    vae = parts["vae"]
    return type(vae).from_config(vae.config, latent_channels=16).eval()


def _net(name: str, **options: Any) -> _Extra:
    """How to build a part from a class of diffusers, all of whose weights act."""

    def build(_: Mapping[str, Any]) -> Any:
        import diffusers

        net = getattr(diffusers, name)(**options)
        return _awake(net) if hasattr(net, "named_parameters") else net

    return build


def _clap(_: Mapping[str, Any]) -> Any:
    from transformers import ClapTextConfig, ClapTextModelWithProjection

    config = ClapTextConfig(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=16,
        max_position_embeddings=32,
        pad_token_id=0,
    )
    return ClapTextModelWithProjection(config).eval()


def _vocoder(_: Mapping[str, Any]) -> Any:
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    config = SpeechT5HifiGanConfig(
        model_in_dim=8,
        sampling_rate=16000,
        upsample_initial_channel=8,
        upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
        initializer_range=0.2,
        normalize_before=False,
    )
    return SpeechT5HifiGan(config).eval()


def _latents_of_clips(_: Mapping[str, Any]) -> Any:
    from diffusers import AutoencoderKLLTXVideo

    flags = (True, True, False, False)
    return AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=flags,
        decoder_spatio_temporal_scaling=flags,
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        patch_size=1,
        patch_size_t=1,
    ).eval()


_IMAGE: dict[str, Any] = {"image": "image"}
_PAINT: dict[str, Any] = {"image": "image", "mask": "mask"}
_PAINT_STOCK: dict[str, Any] = {"image": "image", "mask_image": "mask"}
_SOME: dict[str, Any] = {"strength": 0.7}
_LESS: dict[str, Any] = {"strength": 0.6}
_ALL: dict[str, Any] = {"strength": 1.0}
_NO_SIZE = ("height", "width")
_CLIPS: dict[str, Any] = {
    "in_channels": 8,
    "out_channels": 8,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "cross_attention_dim": 32,
    "num_layers": 1,
    "caption_channels": 16,
}

_TABLE: dict[str, _Kind] = {
    "sd1-img2img": _Kind(
        "sd1",
        "StableDiffusionImg2ImgPipeline",
        _IMAGE | _SOME,
        _IMAGE | _SOME,
        draws=2,
    ),
    "sdxl-img2img": _Kind(
        "sdxl",
        "StableDiffusionXLImg2ImgPipeline",
        _IMAGE | _SOME,
        _IMAGE | _SOME,
        draws=2,
    ),
    "lcm-img2img": _Kind(
        "lcm",
        "LatentConsistencyModelImg2ImgPipeline",
        _IMAGE | _ALL,
        _IMAGE | _ALL,
        draws=4,
    ),
    "sd3-img2img": _Kind(
        "sd3", "StableDiffusion3Img2ImgPipeline", _IMAGE | _LESS, _IMAGE | _LESS, draws=2
    ),
    "flux-img2img": _Kind("flux", "FluxImg2ImgPipeline", _IMAGE | _LESS, _IMAGE | _LESS, draws=2),
    "qwen-image-img2img": _Kind(
        "qwen-image", "QwenImageImg2ImgPipeline", _IMAGE | _LESS, _IMAGE | _LESS, draws=2
    ),
    "z-image-img2img": _Kind(
        "z-image", "ZImageImg2ImgPipeline", _IMAGE | _LESS, _IMAGE | _LESS, draws=2
    ),
    "chroma-img2img": _Kind(
        "chroma", "ChromaImg2ImgPipeline", _IMAGE | _LESS, _IMAGE | _LESS, draws=2
    ),
    "sd1-inpaint": _Kind(
        "sd1",
        "StableDiffusionInpaintPipeline",
        _PAINT | _SOME,
        _PAINT_STOCK | _SOME,
        draws=2,
    ),
    "sd1-inpaint-9": _Kind(
        "sd1",
        "StableDiffusionInpaintPipeline",
        _PAINT | _ALL,
        _PAINT_STOCK | _ALL,
        {"unet": _wide_unet(9)},
        draws=2,
    ),
    "sdxl-inpaint": _Kind(
        "sdxl",
        "StableDiffusionXLInpaintPipeline",
        _PAINT | _SOME,
        _PAINT_STOCK | _SOME,
        draws=2,
    ),
    "sdxl-inpaint-9": _Kind(
        "sdxl",
        "StableDiffusionXLInpaintPipeline",
        _PAINT | _SOME,
        _PAINT_STOCK | _SOME,
        {"unet": _wide_unet(9)},
        draws=3,
    ),
    "sd3-inpaint": _Kind(
        "sd3",
        "StableDiffusion3InpaintPipeline",
        _PAINT | _LESS,
        _PAINT_STOCK | _LESS,
        {"transformer": _sd3_of_16_channels, "vae": _vae_of_16_channels},
        draws=2,
    ),
    "flux-inpaint": _Kind(
        "flux", "FluxInpaintPipeline", _PAINT | _LESS, _PAINT_STOCK | _LESS, draws=2
    ),
    "sd1-controlnet": _Kind(
        "sd1",
        "StableDiffusionControlNetPipeline",
        {"control_image": "control", "control_scale": 0.8},
        {"image": "control", "controlnet_conditioning_scale": 0.8},
        {"controlnet": _controlnet},
    ),
    "sdxl-controlnet": _Kind(
        "sdxl",
        "StableDiffusionXLControlNetPipeline",
        {"control_image": "control"},
        {"image": "control"},
        {"controlnet": _controlnet},
    ),
    "sd1-controlnet-img2img": _Kind(
        "sd1",
        "StableDiffusionControlNetImg2ImgPipeline",
        _IMAGE | _SOME | {"control_image": "control"},
        _IMAGE | _SOME | {"control_image": "control"},
        {"controlnet": _controlnet},
        draws=2,
    ),
    "sd1-controlnet-inpaint": _Kind(
        "sd1",
        "StableDiffusionControlNetInpaintPipeline",
        _PAINT | _SOME | {"control_image": "control"},
        _PAINT_STOCK | _SOME | {"control_image": "control"},
        {"controlnet": _controlnet},
        draws=2,
    ),
    "sd3-controlnet": _Kind(
        "sd3",
        "StableDiffusion3ControlNetPipeline",
        {"control_image": "control"},
        {"control_image": "control"},
        {"controlnet": _sd3_controlnet},
        draws=2,
    ),
    "flux-controlnet": _Kind(
        "flux",
        "FluxControlNetPipeline",
        {"control_image": "control"},
        {"control_image": "control"},
        {"controlnet": _flux_controlnet},
        draws=2,
    ),
    "flux-control": _Kind(
        "flux",
        "FluxControlPipeline",
        {"control_image": "control"},
        {"control_image": "control"},
        {"transformer": _flux_of(32)},
        draws=2,
    ),
    "flux2-klein-image": _Kind("flux2-klein", "Flux2KleinPipeline", _IMAGE, _IMAGE, size=64),
    "kandinsky22-img2img": _Kind(
        "kandinsky22",
        "KandinskyV22Img2ImgCombinedPipeline",
        _IMAGE | _LESS,
        _IMAGE | _LESS,
        draws=3,
    ),
    "sana-sprint-img2img": _Kind(
        "sana-sprint", "SanaSprintImg2ImgPipeline", _IMAGE | _LESS, _IMAGE | _LESS, size=32, draws=2
    ),
    "qwen-image-inpaint": _Kind(
        "qwen-image", "QwenImageInpaintPipeline", _PAINT | _LESS, _PAINT_STOCK | _LESS, draws=2
    ),
    "z-image-inpaint": _Kind(
        "z-image", "ZImageInpaintPipeline", _PAINT | _LESS, _PAINT_STOCK | _LESS, draws=2
    ),
    "cogvideox": _Kind(
        "cogview3",
        "CogVideoXPipeline",
        {"frames": 8},
        {"num_frames": 8},
        {
            "transformer": _net(
                "CogVideoXTransformer3DModel",
                num_attention_heads=2,
                attention_head_dim=16,
                in_channels=4,
                out_channels=4,
                time_embed_dim=2,
                text_embed_dim=16,
                num_layers=1,
                sample_width=2,
                sample_height=2,
                sample_frames=9,
                patch_size=2,
                temporal_compression_ratio=4,
                max_text_seq_length=32,
            ),
            "vae": _net(
                "AutoencoderKLCogVideoX",
                down_block_types=("CogVideoXDownBlock3D",) * 4,
                up_block_types=("CogVideoXUpBlock3D",) * 4,
                block_out_channels=(8, 8, 8, 8),
                latent_channels=4,
                layers_per_block=1,
                norm_num_groups=2,
                temporal_compression_ratio=4,
            ),
        },
    ),
    "sd1-pix2pix": _Kind(
        "sd1",
        "StableDiffusionInstructPix2PixPipeline",
        _IMAGE | {"image_guidance_scale": 1.8},
        _IMAGE | {"image_guidance_scale": 1.8},
        {"unet": _wide_unet(8)},
    ),
    "sdxl-pix2pix": _Kind(
        "sdxl",
        "StableDiffusionXLInstructPix2PixPipeline",
        _IMAGE,
        _IMAGE,
        {"unet": _wide_unet(8)},
    ),
    "animatediff": _Kind(
        "sd1",
        "AnimateDiffPipeline",
        {"frames": 3},
        {"num_frames": 3},
        {
            "motion_adapter": _net(
                "MotionAdapter",
                block_out_channels=(8, 16),
                motion_layers_per_block=1,
                motion_norm_num_groups=4,
                motion_num_attention_heads=2,
                motion_mid_block_layers_per_block=1,
            )
        },
    ),
    "text-to-video-sd": _Kind(
        "sd1",
        "TextToVideoSDPipeline",
        {"frames": 3},
        {"num_frames": 3},
        {
            "unet": _net(
                "UNet3DConditionModel",
                sample_size=8,
                block_out_channels=(8, 16),
                layers_per_block=1,
                norm_num_groups=4,
                down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
                up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
                cross_attention_dim=16,
                attention_head_dim=4,
            )
        },
    ),
    "wan": _Kind(
        "auraflow",
        "WanPipeline",
        {"frames": 5},
        {"num_frames": 5},
        {
            "transformer": _net(
                "WanTransformer3DModel",
                patch_size=(1, 2, 2),
                num_attention_heads=2,
                attention_head_dim=12,
                in_channels=4,
                out_channels=4,
                text_dim=16,
                freq_dim=16,
                ffn_dim=32,
                num_layers=1,
                cross_attn_norm=True,
                rope_max_seq_len=32,
            ),
            "vae": _net(
                "AutoencoderKLWan",
                base_dim=4,
                z_dim=4,
                dim_mult=[1, 1, 1, 1],
                num_res_blocks=1,
                temperal_downsample=[False, True, True],
                latents_mean=[0.0] * 4,
                latents_std=[1.0] * 4,
            ),
        },
    ),
    "ltx": _Kind(
        "pixart-alpha",
        "LTXPipeline",
        {"frames": 5},
        {"num_frames": 5},
        {
            "scheduler": _net("FlowMatchEulerDiscreteScheduler"),
            "transformer": _net("LTXVideoTransformer3DModel", **_CLIPS),
            "vae": _latents_of_clips,
        },
        size=32,
    ),
    "ltx-image-to-video": _Kind(
        "pixart-alpha",
        "LTXImageToVideoPipeline",
        _IMAGE | {"frames": 5},
        _IMAGE | {"num_frames": 5},
        {
            "scheduler": _net("FlowMatchEulerDiscreteScheduler"),
            "transformer": _net("LTXVideoTransformer3DModel", **_CLIPS),
            "vae": _latents_of_clips,
        },
        size=32,
        draws=2,
    ),
    "audioldm": _Kind(
        "sd1",
        "AudioLDMPipeline",
        {"seconds": 0.004},
        {"audio_length_in_s": 0.004},
        {
            "text_encoder": _clap,
            "unet": _net(
                "UNet2DConditionModel",
                sample_size=8,
                block_out_channels=(8, 16),
                layers_per_block=1,
                norm_num_groups=4,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=(8, 16),
                attention_head_dim=4,
                class_embed_type="simple_projection",
                projection_class_embeddings_input_dim=16,
                class_embeddings_concat=True,
            ),
            "vae": _net(
                "AutoencoderKL",
                in_channels=1,
                out_channels=1,
                block_out_channels=(8, 8),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                latent_channels=4,
                norm_num_groups=4,
            ),
            "vocoder": _vocoder,
        },
    ),
    "stable-audio": _Kind(
        "pixart-alpha",
        "StableAudioPipeline",
        {"seconds": 0.004},
        {"audio_end_in_s": 0.004},
        {
            "scheduler": _net(
                "EDMDPMSolverMultistepScheduler",
                solver_order=2,
                prediction_type="v_prediction",
                sigma_data=1.0,
                sigma_schedule="exponential",
            ),
            "projection_model": _net(
                "StableAudioProjectionModel",
                text_encoder_dim=16,
                conditioning_dim=16,
                min_value=0,
                max_value=32,
            ),
            "transformer": _net(
                "StableAudioDiTModel",
                sample_size=8,
                in_channels=4,
                num_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                num_key_value_attention_heads=1,
                out_channels=4,
                cross_attention_dim=16,
                time_proj_dim=8,
                global_states_input_dim=32,
                cross_attention_input_dim=16,
            ),
            "vae": _net(
                "AutoencoderOobleck",
                encoder_hidden_size=8,
                downsampling_ratios=[2, 4],
                decoder_channels=4,
                decoder_input_channels=4,
                audio_channels=2,
                channel_multiples=[2, 4],
                sampling_rate=4000,
            ),
        },
    ),
}

CONDITIONED: tuple[str, ...] = tuple(_TABLE)
"""Kinds of pipelines that take pictures."""


def draws_of(name: str) -> int:
    """Draws that can move what a kind makes, in three steps asked for."""
    return _TABLE[name].draws


def conditioned_pipeline(name: str, seed: int = 0) -> Any:
    """A tiny pipeline of a kind, in float32 on the CPU.

    Args:
        name: one of `CONDITIONED`.
        seed: of the random weights; torch's global random state is left as it was.
    """
    import diffusers
    import torch

    kind = _TABLE[name]
    base: Any = tiny_pipeline(kind.family, seed)
    parts = dict(base.components)
    with torch.random.fork_rng(devices=()), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed + 1)
        for part, build in kind.extras.items():
            parts[part] = build(parts)

    cls = getattr(diffusers, kind.pipeline)
    expected, optional = cls._get_signature_keys(cls)
    known = {part: value for part, value in parts.items() if part in expected}
    more = {option: base.config[option] for option in optional if option in base.config}
    return cls(**known, **more)


def our_inputs(name: str) -> dict[str, Any]:
    """What our sampler is given besides the prompt, by option."""
    kind = _TABLE[name]
    found = _filled(kind.ours, kind.size)
    if _is_pictured(kind):
        found |= {"height": kind.size, "width": kind.size}
    return found


def stock_inputs(name: str, items: int) -> dict[str, Any]:
    """The same as diffusers' arguments, for so many prompts."""
    import inspect

    import diffusers

    kind = _TABLE[name]
    known = inspect.signature(getattr(diffusers, kind.pipeline).__call__).parameters
    found: dict[str, Any] = {}
    if _is_pictured(kind) and "height" in known:
        found = {"height": kind.size, "width": kind.size}
    for argument, value in _filled(kind.stock, kind.size).items():
        found[argument] = value
        if not hasattr(value, "convert"):
            continue
        found[argument] = [value] * items
        # To Flux 2 a list is several pictures for one prompt.
        if name == "flux2-klein-image":
            found[argument] = value
        # Pipelines that make videos take no lists.
        if "num_frames" in known:
            found[argument] = _as_tensor(value, items)
    return found


def conditioned_call(name: str) -> dict[str, Any]:
    """What to call a kind's pipeline with besides, for a small, quick image."""
    import inspect

    import diffusers

    kind = _TABLE[name]
    known = inspect.signature(getattr(diffusers, kind.pipeline).__call__).parameters
    # Pictures have a size, and it is theirs.
    left_out: tuple[str, ...] = ()
    if _is_pictured(kind):
        left_out = _NO_SIZE
    call = {**tiny_call(kind.family), "height": kind.size, "width": kind.size}
    return {key: value for key, value in call.items() if key in known and key not in left_out}


def _is_pictured(kind: _Kind) -> bool:
    return any(value in ("image", "control") for value in kind.stock.values())


def _filled(options: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The options with pictures in place of their kinds."""
    found = dict(options)
    for name, value in options.items():
        if isinstance(value, str):
            found[name] = tiny_picture(value, size)
    return found


def _as_tensor(picture: Image, items: int) -> Any:
    """The picture for each prompt, `B x 3 x H x W` in [0, 1]."""
    import numpy as np
    import torch

    pixels_HWC = np.asarray(picture, dtype=np.float32) / 255
    return torch.from_numpy(np.stack([pixels_HWC.transpose(2, 0, 1)] * items))


@functools.cache
def tiny_picture(which: str, size: int = 16) -> Image:
    """A picture: `image` has colours, `mask` is white on its right, `control` has an edge."""
    import numpy as np
    from PIL import Image

    if which == "mask":
        levels = np.zeros((size, size), dtype=np.uint8)
        levels[:, size // 2 :] = 255
        return Image.fromarray(levels)

    down, across = np.mgrid[0:size, 0:size] / (size - 1)
    if which == "image":
        colours = np.stack([down, across, 1 - down * across], axis=2)
    else:
        edge = (down > across).astype(float)
        colours = np.stack([edge, edge, edge], axis=2)
    return Image.fromarray((255 * colours).round().astype(np.uint8))
