"""Tiny real text-to-image pipelines of many families, built offline, with random weights.

Each is the class of diffusers that full-size models of its family load as, with networks of the
same classes shrunk to a few thousand weights. They draw nothing recognisable; they show whether
code written for one family holds for others. Give them any prompt in lower-case letters.
"""

from __future__ import annotations

import string
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dno.testing.models import Kind, tiny_stable_diffusion, tiny_text_encoder, tiny_tokenizer

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_Build = Callable[[], Any]
_Parts = dict[str, _Build]

_WIDTH = 16
_VOCABULARY = 320
"""Entries of every text encoder's table of tokens: no tokenizer here has more."""


def _net(name: str, **options: Any) -> _Build:
    """How to build a part from a class of diffusers."""

    def build() -> Any:
        import diffusers

        return getattr(diffusers, name)(**options)

    return build


def _encoder(name: str, config: str, **options: Any) -> _Build:
    """How to build a text encoder from a class of transformers; all are of one small size."""

    def build() -> Any:
        import transformers

        return getattr(transformers, name)(
            getattr(transformers, config)(**(_LANGUAGE_MODEL | options))
        )

    return build


_LANGUAGE_MODEL: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": _WIDTH,
    "intermediate_size": 2 * _WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": _WIDTH // 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}


def _vision_language(name: str, config: str) -> _Build:
    """How to build a text encoder that is half of one of Qwen's vision-language models."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    vision = {
        "depth": 1,
        "hidden_size": _WIDTH,
        "intermediate_size": _WIDTH,
        "num_heads": 2,
        "out_hidden_size": _WIDTH,
        "num_position_embeddings": 16,
        "fullatt_block_indexes": [0],
        "deepstack_visual_indexes": [0],
    }

    def build() -> Any:
        import transformers

        kind = getattr(transformers, config)
        known = kind.sub_configs["vision_config"]().to_dict()
        return getattr(transformers, name)(
            kind(
                text_config=_LANGUAGE_MODEL | {"rope_parameters": rope},
                vision_config={key: value for key, value in vision.items() if key in known},
            )
        )

    return build


def _mistral3() -> Any:
    from transformers import Ministral3Config, Mistral3Config, Mistral3Model, PixtralVisionConfig

    vision = {
        "hidden_size": _WIDTH,
        "intermediate_size": _WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = Ministral3Config(**_LANGUAGE_MODEL)
    return Mistral3Model(
        Mistral3Config(text_config=text, vision_config=PixtralVisionConfig(**vision))
    )


def _clip_text(*, projection: bool) -> _Build:
    return lambda: tiny_text_encoder(projection=projection)


def _clip_vision() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        projection_dim=_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    return CLIPVisionModelWithProjection(config)


def _prior() -> Any:
    import torch
    from diffusers import PriorTransformer

    prior = PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        embedding_dim=_WIDTH,
        num_embeddings=24,
    )
    # The spread of image embeddings; an untrained one has none, and nothing that the prior does
    # would show.
    torch.nn.init.ones_(prior.clip_std)
    return prior


def _paella() -> Any:
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel

    return PaellaVQModel(bottleneck_blocks=1, embed_dim=8, num_vq_embeddings=12)


def _image_processor() -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


def _nothing() -> None:
    return None


def _spelling(name: str, **options: Any) -> _Build:
    """How to build a tokenizer of a class of transformers that spells words letter by letter."""

    def build() -> Any:
        import transformers

        kind = getattr(transformers, name)
        if name == "T5Tokenizer":
            pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase]
            return kind(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0, **options)
        if name == "BertTokenizer":
            letters = [
                *string.ascii_lowercase,
                *(f"##{letter}" for letter in string.ascii_lowercase),
            ]
            pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
        elif name == "Qwen2Tokenizer":
            from tokenizers.pre_tokenizers import ByteLevel

            pieces = ["<|endoftext|>", *sorted(ByteLevel.alphabet())]
        else:
            pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.ascii_lowercase]
        return kind(
            vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], **options
        )

    return build


_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }} "
    "{{ message.content }}<|im_end|>{% endfor %}"
)


def _vae(latent_channels: int, levels: int = 2, **options: Any) -> _Build:
    """How to build an `AutoencoderKL` that shrinks an image 2^(levels - 1) times."""
    return _net(
        "AutoencoderKL",
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=16,
        **options,
    )


_CLIP: _Parts = {"text_encoder": _clip_text(projection=False), "tokenizer": tiny_tokenizer}


def _t5(width: int, family: str = "T5") -> _Build:
    return _encoder(f"{family}EncoderModel", f"{family}Config", hidden_size=width, d_ff=2 * width)


_T5: _Parts = {
    "text_encoder": _t5(_WIDTH),
    "tokenizer": _spelling("T5Tokenizer", model_max_length=64),
}
_UMT5 = _T5 | {"text_encoder": _t5(_WIDTH, "UMT5")}
_GEMMA: _Parts = {
    "text_encoder": _encoder("GemmaModel", "GemmaConfig"),
    "tokenizer": _spelling(
        "GemmaTokenizer", model_max_length=64, add_bos_token=True, padding_side="right"
    ),
}
_GEMMA2 = _GEMMA | {
    "text_encoder": _encoder(
        "Gemma2Model", "Gemma2Config", query_pre_attn_scalar=8, sliding_window=64
    )
}
_QWEN3: _Parts = {
    "text_encoder": _encoder("Qwen3Model", "Qwen3Config"),
    "tokenizer": _spelling("Qwen2Tokenizer", model_max_length=512, chat_template=_CHAT_TEMPLATE),
}
_FLOW: _Parts = {"scheduler": _net("FlowMatchEulerDiscreteScheduler")}
_SHIFTING_FLOW: _Parts = {
    "scheduler": _net("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True)
}
_DPM: _Parts = {
    "scheduler": _net(
        "DPMSolverMultistepScheduler",
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type="epsilon",
    )
}


def _second(parts: Mapping[str, _Build], number: int) -> _Parts:
    """The same encoder and tokenizer, as a pipeline's second, third or fourth."""
    return {f"{name}_{number}": part for name, part in parts.items()}


@dataclass(frozen=True)
class _Family:
    pipeline: str
    parts: Mapping[str, _Build]
    call: Mapping[str, Any] = field(default_factory=dict)
    """What a call needs besides the prompt, so that its image is small and quick."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the pipeline's constructor needs besides its parts."""


_SMALL: dict[str, Any] = {"height": 16, "width": 16}
_SHORT: dict[str, Any] = {**_SMALL, "max_sequence_length": 32}
_EVEN: dict[str, Any] = {"height": 32, "width": 32}
_LARGER: dict[str, Any] = {"height": 64, "width": 64}
_PLAIN: dict[str, Any] = {"clean_caption": False}
_FLUX_LIKE: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": _WIDTH,
    "axes_dims_rope": (4, 2, 2),
}
_PIXART: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 2,
    "cross_attention_dim": _WIDTH,
    "caption_channels": _WIDTH,
    "sample_size": 8,
    "norm_num_groups": 4,
}
_RESAMPLING_UNET: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "attention_head_dim": 4,
    "cross_attention_dim": _WIDTH,
    "encoder_hid_dim": _WIDTH,
    "resnet_time_scale_shift": "scale_shift",
}
_SANA: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 8,
    "cross_attention_dim": _WIDTH,
    "caption_channels": _WIDTH,
    "sample_size": 8,
}
_DEEP = _net(
    "AutoencoderDC",
    latent_channels=4,
    attention_head_dim=4,
    encoder_block_out_channels=(8, 8),
    decoder_block_out_channels=(8, 8),
    encoder_layers_per_block=(1, 1),
    decoder_layers_per_block=(1, 1),
    encoder_qkv_multiscales=((), ()),
    decoder_qkv_multiscales=((), ()),
)
_MOVQ = _net(
    "VQModel",
    block_out_channels=(32, 32),  # its normalisation takes 32 groups
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    latent_channels=4,
    norm_num_groups=4,
    num_vq_embeddings=12,
    vq_embed_dim=4,
    norm_type="spatial",
)
_FLUX2_VAE = _net(
    "AutoencoderKLFlux2",
    block_out_channels=(8, 8),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    latent_channels=4,
    norm_num_groups=4,
)
_QWEN_VAE = _net(
    "AutoencoderKLQwenImage",
    base_dim=8,
    z_dim=4,
    dim_mult=[1, 1],
    num_res_blocks=1,
    temperal_downsample=[False],
    latents_mean=[0.0] * 4,
    latents_std=[1.0] * 4,
)
_CASCADE: dict[str, Any] = {
    "conditioning_dim": _WIDTH,
    "block_out_channels": (8, 16),
    "num_attention_heads": (2, 2),
    "down_num_layers_per_block": (1, 1),
    "up_num_layers_per_block": (1, 1),
    "down_blocks_repeat_mappers": (1, 1),
    "up_blocks_repeat_mappers": (1, 1),
    "clip_text_pooled_in_channels": _WIDTH,
}
_NO_CHECKER: dict[str, Any] = {
    "safety_checker": None,
    "feature_extractor": None,
    "requires_safety_checker": False,
}

_TABLE: dict[str, _Family] = {
    "lcm": _Family(
        "LatentConsistencyModelPipeline",
        {
            **_CLIP,
            "unet": _net(
                "UNet2DConditionModel",
                sample_size=8,
                block_out_channels=(8, 16),
                layers_per_block=1,
                norm_num_groups=4,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=_WIDTH,
                attention_head_dim=4,
                time_cond_proj_dim=8,
            ),
            "vae": _vae(4),
            "scheduler": _net("LCMScheduler", clip_sample=False, set_alpha_to_one=False),
        },
        options=_NO_CHECKER,
    ),
    "pixart-alpha": _Family(
        "PixArtAlphaPipeline",
        {**_T5, **_DPM, "transformer": _net("PixArtTransformer2DModel", **_PIXART), "vae": _vae(4)},
        _SHORT | _PLAIN | {"use_resolution_binning": False},
    ),
    "pixart-sigma": _Family(
        "PixArtSigmaPipeline",
        {**_T5, **_DPM, "transformer": _net("PixArtTransformer2DModel", **_PIXART), "vae": _vae(4)},
        _SHORT | _PLAIN | {"use_resolution_binning": False},
    ),
    "sd3": _Family(
        "StableDiffusion3Pipeline",
        {
            "text_encoder": _clip_text(projection=True),
            "tokenizer": tiny_tokenizer,
            "text_encoder_2": _clip_text(projection=True),
            "tokenizer_2": tiny_tokenizer,
            "text_encoder_3": _t5(2 * _WIDTH),
            "tokenizer_3": _T5["tokenizer"],
            **_FLOW,
            "transformer": _net(
                "SD3Transformer2DModel",
                sample_size=8,
                in_channels=8,
                out_channels=8,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=2 * _WIDTH,
                caption_projection_dim=_WIDTH,
                pooled_projection_dim=2 * _WIDTH,
                pos_embed_max_size=16,
            ),
            "vae": _vae(8, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.05),
        },
        _SHORT,
    ),
    "flux": _Family(
        "FluxPipeline",
        {
            **_CLIP,
            **_second(_T5, 2),
            **_FLOW,
            "transformer": _net(
                "FluxTransformer2DModel", pooled_projection_dim=_WIDTH, **_FLUX_LIKE
            ),
            "vae": _vae(4, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.05),
        },
        _SHORT,
    ),
    "flux2-klein": _Family(
        "Flux2KleinPipeline",
        {
            **_QWEN3,
            "text_encoder": _encoder("Qwen3ForCausalLM", "Qwen3Config"),
            **_SHIFTING_FLOW,
            "transformer": _net(
                "Flux2Transformer2DModel",
                **{**_FLUX_LIKE, "axes_dims_rope": (2, 2, 2, 2), "joint_attention_dim": 3 * _WIDTH},
                guidance_embeds=False,
            ),
            "vae": _FLUX2_VAE,
        },
        _SHORT | {"text_encoder_out_layers": (0, 1, 2)},
    ),
    "chroma": _Family(
        "ChromaPipeline",
        {
            **_T5,
            **_FLOW,
            "transformer": _net(
                "ChromaTransformer2DModel",
                **_FLUX_LIKE,
                approximator_num_channels=8,
                approximator_hidden_dim=16,
                approximator_layers=1,
            ),
            "vae": _vae(4, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.05),
        },
        _SHORT,
    ),
    "bria": _Family(
        "BriaPipeline",
        {
            **_T5,
            **_FLOW,
            "transformer": _net("BriaTransformer2DModel", **_FLUX_LIKE),
            "vae": _vae(4, shift_factor=0.0),
        },
        _SHORT,
    ),
    "ovis-image": _Family(
        "OvisImagePipeline",
        {
            **_QWEN3,
            **_SHIFTING_FLOW,
            "transformer": _net("OvisImageTransformer2DModel", **_FLUX_LIKE, out_channels=16),
            "vae": _vae(4, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.05),
        },
        _SHORT,
    ),
    "sana": _Family(
        "SanaPipeline",
        {
            **_GEMMA2,
            "scheduler": _net(
                "DPMSolverMultistepScheduler",
                prediction_type="flow_prediction",
                use_flow_sigmas=True,
                flow_shift=3.0,
            ),
            "transformer": _net("SanaTransformer2DModel", **_SANA),
            "vae": _DEEP,
        },
        _SHORT
        | _EVEN
        | _PLAIN
        | {"use_resolution_binning": False, "complex_human_instruction": None},
    ),
    "auraflow": _Family(
        "AuraFlowPipeline",
        {
            **_UMT5,
            **_FLOW,
            "transformer": _net(
                "AuraFlowTransformer2DModel",
                sample_size=8,
                num_mmdit_layers=1,
                num_single_dit_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=_WIDTH,
                caption_projection_dim=_WIDTH,
                pos_embed_max_size=64,
            ),
            "vae": _vae(4),
        },
        _SHORT,
    ),
    "lumina": _Family(
        "LuminaPipeline",
        {
            **_GEMMA,
            **_FLOW,
            "transformer": _net(
                "LuminaNextDiT2DModel",
                sample_size=8,
                hidden_size=_WIDTH,
                num_layers=2,
                num_attention_heads=2,
                num_kv_heads=1,
                multiple_of=8,
                cross_attention_dim=_WIDTH,
            ),
            "vae": _vae(4, levels=4),
        },
        _SHORT | _PLAIN | _LARGER,
    ),
    "lumina2": _Family(
        "Lumina2Pipeline",
        {
            **_GEMMA2,
            **_FLOW,
            "transformer": _net(
                "Lumina2Transformer2DModel",
                sample_size=8,
                in_channels=4,
                hidden_size=_WIDTH,
                num_layers=2,
                num_refiner_layers=1,
                num_attention_heads=2,
                num_kv_heads=1,
                multiple_of=8,
                axes_dim_rope=(4, 2, 2),
                axes_lens=(256, 16, 16),
                cap_feat_dim=_WIDTH,
            ),
            "vae": _vae(4, levels=4, shift_factor=0.05),
        },
        _LARGER | {"max_sequence_length": 256},
    ),
    "hunyuan-dit": _Family(
        "HunyuanDiTPipeline",
        {
            "text_encoder": _encoder("BertModel", "BertConfig", max_position_embeddings=77),
            "tokenizer": _spelling("BertTokenizer", model_max_length=77),
            **_second(_T5 | {"tokenizer": _spelling("T5Tokenizer", model_max_length=256)}, 2),
            "scheduler": _net(
                "DDPMScheduler",
                beta_schedule="scaled_linear",
                beta_start=0.00085,
                beta_end=0.03,
                clip_sample=False,
                prediction_type="v_prediction",
            ),
            "transformer": _net(
                "HunyuanDiT2DModel",
                sample_size=8,
                num_layers=2,
                patch_size=2,
                attention_head_dim=8,
                num_attention_heads=2,
                in_channels=4,
                hidden_size=_WIDTH,
                cross_attention_dim=_WIDTH,
                cross_attention_dim_t5=_WIDTH,
                pooled_projection_dim=16,
            ),
            "vae": _vae(4),
        },
        _SMALL | {"use_resolution_binning": False},
        _NO_CHECKER,
    ),
    "qwen-image": _Family(
        "QwenImagePipeline",
        {
            **_QWEN3,
            "text_encoder": _vision_language(
                "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig"
            ),
            **_SHIFTING_FLOW,
            "transformer": _net(
                "QwenImageTransformer2DModel",
                in_channels=16,
                out_channels=4,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=_WIDTH,
                axes_dims_rope=(4, 2, 2),
            ),
            "vae": _QWEN_VAE,
        },
        _SMALL | {"max_sequence_length": 512},
    ),
    "z-image": _Family(
        "ZImagePipeline",
        {
            **_QWEN3,
            **_FLOW,
            "transformer": _net(
                "ZImageTransformer2DModel",
                in_channels=4,
                dim=_WIDTH,
                n_layers=1,
                n_refiner_layers=1,
                n_heads=2,
                n_kv_heads=2,
                cap_feat_dim=_WIDTH,
                axes_dims=[4, 2, 2],
                axes_lens=[256, 32, 32],
            ),
            "vae": _vae(4, shift_factor=0.05),
        },
        _SMALL | {"max_sequence_length": 64},
    ),
    "cogview3": _Family(
        "CogView3PlusPipeline",
        {
            **_T5,
            "scheduler": _net(
                "CogVideoXDDIMScheduler",
                beta_schedule="scaled_linear",
                beta_start=0.00085,
                beta_end=0.012,
                clip_sample=False,
                prediction_type="v_prediction",
            ),
            "transformer": _net(
                "CogView3PlusTransformer2DModel",
                in_channels=4,
                out_channels=4,
                num_layers=2,
                attention_head_dim=4,
                num_attention_heads=2,
                text_embed_dim=_WIDTH,
                time_embed_dim=8,
                condition_dim=4,
                pos_embed_max_size=8,
                sample_size=8,
            ),
            "vae": _vae(4),
        },
        _SHORT,
    ),
    "cogview4": _Family(
        "CogView4Pipeline",
        {
            "text_encoder": _encoder("GlmModel", "GlmConfig"),
            "tokenizer": _spelling(
                "GemmaTokenizer", model_max_length=64, add_bos_token=True, padding_side="left"
            ),
            **_SHIFTING_FLOW,
            "transformer": _net(
                "CogView4Transformer2DModel",
                in_channels=4,
                out_channels=4,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                text_embed_dim=_WIDTH,
                time_embed_dim=8,
                condition_dim=4,
                pos_embed_max_size=8,
                sample_size=8,
                rope_axes_dim=(8, 8),
            ),
            "vae": _vae(4),
        },
        _SHORT,
    ),
    "sana-sprint": _Family(
        "SanaSprintPipeline",
        {
            **_GEMMA2,
            "scheduler": _net("SCMScheduler"),
            "transformer": _net(
                "SanaTransformer2DModel",
                **_SANA,
                guidance_embeds=True,
                qk_norm="rms_norm_across_heads",
            ),
            "vae": _DEEP,
        },
        _SHORT
        | _EVEN
        | _PLAIN
        | {
            "use_resolution_binning": False,
            "complex_human_instruction": None,
            "intermediate_timesteps": None,
        },
    ),
    "kandinsky22": _Family(
        "KandinskyV22CombinedPipeline",
        {
            "unet": _net(
                "UNet2DConditionModel",
                sample_size=8,
                in_channels=4,
                out_channels=8,
                **_RESAMPLING_UNET,
                encoder_hid_dim_type="image_proj",
                addition_embed_type="image",
            ),
            "scheduler": _net(
                "DDPMScheduler",
                beta_start=0.00085,
                beta_end=0.012,
                clip_sample=False,
                variance_type="learned_range",
            ),
            "movq": _MOVQ,
            "prior_prior": _prior,
            "prior_image_encoder": _clip_vision,
            "prior_text_encoder": _clip_text(projection=True),
            "prior_tokenizer": tiny_tokenizer,
            "prior_scheduler": _net(
                "UnCLIPScheduler",
                variance_type="fixed_small_log",
                prediction_type="sample",
                clip_sample=False,
            ),
            "prior_image_processor": _image_processor,
        },
        _SMALL | {"prior_num_inference_steps": 2},
    ),
    "stable-cascade": _Family(
        "StableCascadeCombinedPipeline",
        {
            "tokenizer": tiny_tokenizer,
            "text_encoder": _clip_text(projection=True),
            "decoder": _net(
                "StableCascadeUNet",
                **_CASCADE,
                in_channels=4,
                out_channels=4,
                effnet_in_channels=16,
                pixel_mapper_in_channels=3,
                timestep_conditioning_type=("sca",),
            ),
            "scheduler": _net("DDPMWuerstchenScheduler"),
            "vqgan": _paella,
            "prior_prior": _net(
                "StableCascadeUNet",
                **_CASCADE,
                clip_text_in_channels=_WIDTH,
                clip_image_in_channels=_WIDTH,
                switch_level=(False,),
            ),
            "prior_text_encoder": _clip_text(projection=True),
            "prior_tokenizer": tiny_tokenizer,
            "prior_scheduler": _net("DDPMWuerstchenScheduler"),
        },
        _EVEN | {"prior_num_inference_steps": 2},
    ),
    "krea2": _Family(
        "Krea2Pipeline",
        {
            **_QWEN3,
            "text_encoder": _vision_language("Qwen3VLModel", "Qwen3VLConfig"),
            **_SHIFTING_FLOW,
            "transformer": _net(
                "Krea2Transformer2DModel",
                in_channels=16,
                num_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                num_key_value_heads=1,
                intermediate_size=2 * _WIDTH,
                timestep_embed_dim=_WIDTH,
                text_hidden_dim=_WIDTH,
                num_text_layers=2,
                text_num_attention_heads=2,
                text_num_key_value_heads=1,
                text_intermediate_size=2 * _WIDTH,
                num_layerwise_text_blocks=1,
                num_refiner_text_blocks=1,
                axes_dims_rope=(4, 2, 2),
            ),
            "vae": _QWEN_VAE,
        },
        _SHORT,
        {"text_encoder_select_layers": (1, 2)},
    ),
    "ernie-image": _Family(
        "ErnieImagePipeline",
        {
            "text_encoder": _mistral3,
            "tokenizer": _QWEN3["tokenizer"],
            **_FLOW,
            "transformer": _net(
                "ErnieImageTransformer2DModel",
                hidden_size=_WIDTH,
                num_attention_heads=2,
                num_layers=2,
                ffn_hidden_size=2 * _WIDTH,
                in_channels=16,
                out_channels=16,
                text_in_dim=_WIDTH,
                rope_axes_dim=(4, 2, 2),
            ),
            "vae": _FLUX2_VAE,
        },
        _SMALL,
    ),
    "deepfloyd-if": _Family(
        "IFPipeline",
        {
            **_T5,
            "unet": _net(
                "UNet2DConditionModel",
                sample_size=16,
                in_channels=3,
                out_channels=6,
                **_RESAMPLING_UNET,
                addition_embed_type="text",
                addition_embed_type_num_heads=2,
                act_fn="gelu",
            ),
            "scheduler": _net(
                "DDPMScheduler",
                beta_schedule="squaredcos_cap_v2",
                clip_sample=False,
                variance_type="learned_range",
            ),
            "watermarker": _nothing,
        },
        _PLAIN,
        _NO_CHECKER,
    ),
}

_OTHERS: dict[str, _Family] = {
    "amused": _Family(
        "AmusedPipeline",
        {
            "text_encoder": _clip_text(projection=True),
            "tokenizer": tiny_tokenizer,
            "transformer": _net(
                "UVit2DModel",
                hidden_size=_WIDTH,
                cond_embed_dim=_WIDTH,
                encoder_hidden_size=_WIDTH,
                micro_cond_encode_dim=2,
                micro_cond_embed_dim=10,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=2 * _WIDTH,
                block_out_channels=_WIDTH,
                block_num_heads=2,
                in_channels=_WIDTH,
                codebook_size=12,
                vocab_size=13,
                sample_size=8,
            ),
            "vqvae": _net(
                "VQModel",
                block_out_channels=(8, 8),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                latent_channels=4,
                norm_num_groups=4,
                num_vq_embeddings=12,
                lookup_from_codebook=True,
            ),
            "scheduler": _net("AmusedScheduler", mask_token_id=12),
        },
        _SMALL,
    ),
    "dit": _Family(
        "DiTPipeline",
        {
            "transformer": _net(
                "DiTTransformer2DModel",
                num_attention_heads=2,
                attention_head_dim=8,
                out_channels=8,
                num_layers=2,
                sample_size=8,
                num_embeds_ada_norm=10,
                norm_num_groups=4,
            ),
            "vae": _vae(4),
            "scheduler": _net("DDIMScheduler", clip_sample=False),
        },
    ),
}

_STABLE_DIFFUSION: tuple[Kind, ...] = ("sd1", "sd2", "sdxl")

FAMILIES: tuple[str, ...] = (*_STABLE_DIFFUSION, *_TABLE)
"""Families of text-to-image pipelines that start from Gaussian noise."""
OTHERS: tuple[str, ...] = tuple(_OTHERS)
"""Pipelines that no Gaussian noise steers from a prompt: `amused` draws tokens, `dit` takes numbers
of classes."""


def tiny_pipeline(name: str, seed: int = 0) -> DiffusionPipeline:
    """A pipeline of a family, in float32 on the CPU, of less than 2 MB.

    Args:
        name: one of `FAMILIES` or `OTHERS`.
        seed: of the random weights; torch's global random state is left as it was.

    Raises:
        KeyError: there is no such family.
    """
    import diffusers
    import torch

    for kind in _STABLE_DIFFUSION:
        if name == kind:
            return tiny_stable_diffusion(kind, seed=seed)
    family = (_TABLE | _OTHERS)[name]
    with torch.random.fork_rng(devices=()), warnings.catch_warnings():
        # diffusers' models use what diffusers has deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)
        parts = {part: build() for part, build in family.parts.items()}
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval()

    return getattr(diffusers, family.pipeline)(**parts, **family.options)


def tiny_call(name: str) -> dict[str, Any]:
    """What to call a family's tiny pipeline with besides its prompt, for a small, quick image.

    Raises:
        KeyError: there is no such family.
    """
    if name in _STABLE_DIFFUSION:
        return {}
    return dict((_TABLE | _OTHERS)[name].call)
