"""Tiny real vision-language models with random weights, made offline and saved as a hub's folders
are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    CLIPImageProcessor,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma3TextConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    SiglipVisionConfig,
    T5Config,
)

MERGES = ["y e", "ye s", "Y e", "Ye s", "n o", "N o", "Ġ yes", "Ġ No", "no w", "no t"]
YES, NO = ["yes", "Yes", "Ġyes"], ["no", "No", "ĠNo"]
"""Every token that reads yes or no: "now" and "not" are none."""
SIZE = 32
TEXT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWER = {**TEXT, "intermediate_size": 32}
WIDE = {"initializer_range": 0.3}
"""At the usual 0.02 an untrained model thinks nearly the same of everything."""

CHAT = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}<image>\n{% else %}{{ item['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def tokenizer(**tokens: str) -> PreTrainedTokenizerFast:
    """Reads bytes, a few short words whole, and these special tokens."""
    pieces = [
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *(merge.replace(" ", "") for merge in MERGES),
    ]
    vocabulary = {piece: index for index, piece in enumerate(["<s>", "</s>", *pieces])}
    merges = [(left, right) for left, right in (merge.split(" ") for merge in MERGES)]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **special, extra_special_tokens=tokens)


def clip_images() -> Any:
    """CLIP's image processor in the form that this environment has: of torchvision, or of PIL."""
    return CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )


def save_llava(folder: Path) -> Path:
    """CLIP's vision tower and a Llama."""
    words = tokenizer(image_token="<image>")
    image_id = words.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**TOWER, **WIDE, image_size=SIZE, patch_size=8),
        text_config=LlamaConfig(
            **TOWER, **WIDE, vocab_size=len(words), max_position_embeddings=512
        ),
        image_token_index=image_id,
        vision_feature_layer=-1,
    )
    save(LlavaForConditionalGeneration, config, folder)
    LlavaProcessor(
        clip_images(),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(folder)
    return folder


def save_blip2(folder: Path, text_config: Any = None) -> Path:
    """A vision tower, a query former and an OPT, or what `text_config` says; its processor has no
    chat template.
    """
    words = tokenizer()
    words.add_tokens(["<image>"], special_tokens=True)
    opt = {
        "ffn_dim": 32,
        "word_embed_proj_dim": 16,
        "init_std": 0.3,
        "max_position_embeddings": 512,
    }
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**TOWER, **WIDE, image_size=SIZE, patch_size=8).to_dict(),
        qformer_config=Blip2QFormerConfig(
            **TOWER, **WIDE, vocab_size=8, encoder_hidden_size=16
        ).to_dict(),
        text_config=(text_config or OPTConfig(**TEXT, **opt, vocab_size=len(words))).to_dict(),
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        **WIDE,
    )
    save(Blip2ForConditionalGeneration, config, folder)
    Blip2Processor(clip_images(), words, num_query_tokens=4).save_pretrained(folder)
    return folder


def save_blip2_t5(folder: Path) -> Path:
    """BLIP-2 with a T5, whose decoder says the answer."""
    ends = {"pad_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 0}
    size = {
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 2,
        "num_heads": 2,
        "vocab_size": 269,
    }
    return save_blip2(folder, T5Config(**size, **ends, initializer_factor=1.0))


def save_gemma3(folder: Path) -> Path:
    """SigLIP's vision tower and a Gemma; the model reads which tokens are an image's."""
    marks = {"boi_token": "<boi>", "eoi_token": "<eoi>", "image_token": "<soft>"}
    words = tokenizer(**marks)
    boi, eoi, image = words.convert_tokens_to_ids(list(marks.values()))
    heads = {
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 64,
        "max_position_embeddings": 512,
    }
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**TOWER, **WIDE, **heads, vocab_size=len(words)),
        vision_config=SiglipVisionConfig(**TOWER, image_size=SIZE, patch_size=8),
        mm_tokens_per_image=4,
        boi_token_index=boi,
        eoi_token_index=eoi,
        image_token_index=image,
        **WIDE,
    )
    # An untrained Gemma 3 has zeros there, and sees nothing.
    save(Gemma3ForConditionalGeneration, config, folder, wide="mm_input_projection_weight")
    images = Gemma3ImageProcessor(size={"height": SIZE, "width": SIZE})
    chat = CHAT.replace("<image>", "<boi>")
    Gemma3Processor(images, words, chat_template=chat, image_seq_length=4).save_pretrained(folder)
    return folder


def save_qwen2_vl(folder: Path) -> Path:
    """Qwen2-VL, which takes images of any size apart; its processor needs torchvision for
    videos.
    """
    from transformers import Qwen2VLVideoProcessor

    marks = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    ends = {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    words = tokenizer(**marks, **{f"{name}_token": mark for name, mark in ends.items()})
    ids = {f"{name}_id": words.convert_tokens_to_ids(mark) for name, mark in marks.items()}
    ids |= {f"{name}_token_id": words.convert_tokens_to_ids(mark) for name, mark in ends.items()}
    heads = {
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    turned = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    config = Qwen2VLConfig(
        text_config={**TOWER, **WIDE, **heads, "vocab_size": len(words), "rope_parameters": turned},
        vision_config={
            "depth": 2,
            "embed_dim": 16,
            "hidden_size": 16,
            "num_heads": 2,
            "patch_size": 4,
            **WIDE,
        },
        **ids,
    )
    save(Qwen2VLForConditionalGeneration, config, folder)
    images = Qwen2VLImageProcessor(patch_size=4, size={"shortest_edge": 256, "longest_edge": 4096})
    chat = CHAT.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
    Qwen2VLProcessor(
        images, words, Qwen2VLVideoProcessor(patch_size=4), chat_template=chat
    ).save_pretrained(folder)
    return folder


def save(cls: Any, config: Any, folder: Path, wide: str = "nothing") -> None:
    """Save an untrained model, its weights of this name drawn anew; torch's random state is left as
    it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = cls(config)
        for name, weight in model.named_parameters():
            if name.endswith(wide):
                torch.nn.init.normal_(weight, std=WIDE["initializer_range"])
        model.save_pretrained(folder)


SAVERS: dict[str, Callable[[Path], Path]] = {
    "llava": save_llava,
    "gemma3": save_gemma3,
    "blip2": save_blip2,
    "blip2-t5": save_blip2_t5,
    "qwen2-vl": save_qwen2_vl,
}
