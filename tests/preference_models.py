"""Folders of small models of the rewards with published weights, in the classes, names and file
formats of those.
"""

from __future__ import annotations

import json
import math
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from dno_builtin.rewards.aesthetic import Aesthetic
from dno_builtin.rewards.hpsv2 import HPSv2, HPSv21
from dno_builtin.rewards.imagereward import ImageReward
from dno_builtin.rewards.pickscore import PickScore
from dno_builtin.rewards.siglip import Siglip
from torch import Tensor
from transformers import SiglipConfig, SiglipModel, SiglipProcessor

from dno.plugin import RewardConfig
from dno.testing.clip import save_tiny_clip

State = dict[str, Tensor]


def numbers(seed: int, **shapes: tuple[int, ...]) -> State:
    """Weights large enough that answers differ; norms scale by about 1."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        near_one = len(shape) == 1 and key.endswith("weight")
        state[key] = near_one + 0.2 * torch.randn(shape, generator=generator)
    return state


def openclip_state(seed: int) -> State:
    """As open_clip names a CLIP model: image 32, patch 8, widths 128 and 64, embedding 16, 24
    tokens of 54.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "visual.class_embedding": (128,),
        "visual.positional_embedding": (17, 128),
        "visual.conv1.weight": (128, 3, 8, 8),
        "visual.proj": (128, 16),
        "token_embedding.weight": (54, 64),
        "positional_embedding": (24, 64),
        "text_projection": (64, 16),
        "logit_scale": (),
    }
    norms = {"visual.ln_pre": 128, "visual.ln_post": 128, "ln_final": 64}
    for tower, width in (("visual.transformer", 128), ("transformer", 64)):
        for i in range(2):
            block = f"{tower}.resblocks.{i}"
            shapes |= {
                f"{block}.attn.in_proj_weight": (3 * width, width),
                f"{block}.attn.in_proj_bias": (3 * width,),
                f"{block}.attn.out_proj.weight": (width, width),
                f"{block}.attn.out_proj.bias": (width,),
                f"{block}.mlp.c_fc.weight": (2 * width, width),
                f"{block}.mlp.c_fc.bias": (2 * width,),
                f"{block}.mlp.c_proj.weight": (width, 2 * width),
                f"{block}.mlp.c_proj.bias": (width,),
            }
            norms |= {f"{block}.ln_1": width, f"{block}.ln_2": width}
    for norm, width in norms.items():
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return numbers(seed, **shapes) | {"attn_mask": torch.full((24, 24), -math.inf).triu(1)}


def imagereward_state(seed: int) -> State:
    """As ImageReward.pt names its model: image 32, patch 8, widths 128 and 64, 40 tokens of 60."""
    shapes: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.cls_token": (1, 1, 128),
        "blip.visual_encoder.pos_embed": (1, 17, 128),
        "blip.visual_encoder.patch_embed.proj.weight": (128, 3, 8, 8),
        "blip.visual_encoder.patch_embed.proj.bias": (128,),
        "blip.text_encoder.embeddings.word_embeddings.weight": (60, 64),
        "blip.text_encoder.embeddings.position_embeddings.weight": (40, 64),
        "blip.vision_proj.weight": (8, 128),
        "blip.vision_proj.bias": (8,),
        "blip.text_proj.weight": (8, 64),
        "blip.text_proj.bias": (8,),
    }
    linears = {}
    norms = {"blip.visual_encoder.norm": 128, "blip.text_encoder.embeddings.LayerNorm": 64}
    for i in range(2):
        block = f"blip.visual_encoder.blocks.{i}"
        norms |= {f"{block}.norm1": 128, f"{block}.norm2": 128}
        linears |= {f"{block}.attn.qkv": (384, 128), f"{block}.attn.proj": (128, 128)}
        linears |= {f"{block}.mlp.fc1": (256, 128), f"{block}.mlp.fc2": (128, 256)}
        layer = f"blip.text_encoder.encoder.layer.{i}"
        for attention, width in (("attention", 64), ("crossattention", 128)):
            linears |= {
                f"{layer}.{attention}.self.query": (64, 64),
                f"{layer}.{attention}.self.key": (64, width),
            }
            linears |= {
                f"{layer}.{attention}.self.value": (64, width),
                f"{layer}.{attention}.output.dense": (64, 64),
            }
            norms |= {f"{layer}.{attention}.output.LayerNorm": 64}
        linears |= {f"{layer}.intermediate.dense": (128, 64), f"{layer}.output.dense": (64, 128)}
        norms |= {f"{layer}.output.LayerNorm": 64}
    for number, (old, new) in zip(
        (0, 2, 4, 6, 7), ((64, 32), (32, 16), (16, 8), (8, 4), (4, 1)), strict=True
    ):
        linears[f"mlp.layers.{number}"] = (new, old)
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, width in norms.items():
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return numbers(seed, **shapes) | {
        "blip.text_encoder.embeddings.position_ids": torch.arange(40)[None]
    }


def save_bert_tokenizer(folder: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase]
    words += [f"##{letter}" for letter in string.ascii_lowercase]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
        )
    )


def save_tiny_siglip(folder: Path) -> None:
    """An untrained `SiglipModel` with a tokenizer of lower-case letters and the processor of SigLIP
    2.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    vocabulary = {
        word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", " ", *string.ascii_lowercase])
    }
    spelling = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    spelling.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    spelling.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=spelling,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_input_names=["input_ids"],
    )
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 16, "projection_size": 32}
    config = SiglipConfig(
        text_config=tower | text | ends, vision_config=tower | {"image_size": 32, "patch_size": 8}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        SiglipModel(config).save_pretrained(folder)
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32}, resample=2)
    SiglipProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)


@dataclass(frozen=True)
class Models:
    """Folders of the small models, and what is in them."""

    folder: Path
    hps: State
    hps21: State
    imagereward: State
    head: State

    def config(self, name: str, **options: Any) -> Any:
        """Options that load a reward from its folder."""
        classes: dict[str, type[RewardConfig]] = {
            "siglip": Siglip,
            "aesthetic": Aesthetic,
            "pickscore": PickScore,
            "hpsv2": HPSv2,
            "hpsv2.1": HPSv21,
            "imagereward": ImageReward,
        }
        place = {"aesthetic": "clip", "pickscore": "clip", "hpsv2.1": "hpsv2"}.get(name, name)
        if name == "aesthetic":
            options = {"head": str(self.folder / "head")} | options
        return classes[name].model_validate({"model": str(self.folder / place)} | options)


def save_models(folder: Path) -> Models:
    """Write them all."""
    save_tiny_clip(folder / "clip")
    save_tiny_siglip(folder / "siglip")
    for name in ("hpsv2", "imagereward", "head"):
        (folder / name).mkdir()
    for name in ("tokenizer_config.json", "vocab.json", "merges.txt"):
        (folder / "hpsv2" / name).write_bytes((folder / "clip" / name).read_bytes())
    save_bert_tokenizer(folder / "imagereward")
    widths = (8, 64, 32, 16, 8, 1)
    head = {f"layers.{n}.weight": widths[i : i + 2][::-1] for i, n in enumerate((0, 2, 4, 6, 7))}
    head |= {f"layers.{n}.bias": (widths[i + 1],) for i, n in enumerate((0, 2, 4, 6, 7))}
    made = Models(
        folder, openclip_state(1), openclip_state(2), imagereward_state(3), numbers(4, **head)
    )
    torch.save({"iteration": 7, "state_dict": made.hps}, folder / "hpsv2" / "HPS_v2_compressed.pt")
    # As saved from a model that was trained on many GPUs.
    spread = {f"module.{key}": value for key, value in made.hps21.items()}
    torch.save({"state_dict": spread}, folder / "hpsv2" / "HPS_v2.1_compressed.pt")
    torch.save(made.imagereward, folder / "imagereward" / "ImageReward.pt")
    # The head is from before torch 1.6 or after: both formats are about.
    torch.save(
        made.head,
        folder / "head" / "sac+logos+ava1-l14-linearMSE.pth",
        _use_new_zipfile_serialization=False,
    )
    return made
