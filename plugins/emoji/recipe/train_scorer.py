"""Train the scorer: a small CLIP of our own. Resumable.

Usage, from `plugins/emoji`: `python -m recipe.train_scorer --help`.

Contrast inside a random batch is solved by colour alone. Here every picture must find its caption
among all 45 animals in its own colours, so shape has to be learnt.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from dno_emoji.codec import EmojiCodec
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from recipe.augment import augment
from recipe.checkpoint import load, save
from recipe.codec import to_tensor
from recipe.train_diffusion import tokenise
from recipe.train_judge import SEEN
from recipe.words import ANIMALS, COLOUR_NAMES, NATURAL, UNNAMED, caption

WIDTH = 128


def scorer(tokenizer: CLIPTokenizer) -> CLIPModel:
    """CLIP over 32 x 32 px pictures in 4 x 4 px patches and the recipe's tokenizer."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": SEEN,
        "patch_size": 4,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
    # The stock start is a tenth as large as the patches themselves, and shape is all about where
    # patches are.
    with torch.no_grad():
        model.vision_model.embeddings.position_embedding.weight[1:] = 0.15 * grid_positions(
            SEEN // 4, WIDTH
        )
    return model


def grid_positions(side: int, width: int) -> torch.Tensor:
    """Sines and cosines of row and column of a `side x side` grid, `side**2 x width`."""
    frequency = 2.0 ** torch.linspace(0, -4, width // 4)
    angle = torch.arange(side)[:, None] * frequency
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)
    return torch.cat([axis.repeat_interleave(side, 0), axis.repeat(side, 1)], dim=1)


def text_features(model: CLIPModel, tokens: torch.Tensor) -> torch.Tensor:
    """Unit text features, `B x 128`."""
    pooled = model.text_projection(model.text_model(tokens).pooler_output)
    return torch.nn.functional.normalize(pooled, dim=-1)


def image_features(model: CLIPModel, images: torch.Tensor) -> torch.Tensor:
    """Unit features of pictures `B x 3 x H x W` in [-1, 1], `B x 128`.

    The scorer sees 32 x 32 px.
    """
    seen = torch.nn.functional.adaptive_avg_pool2d(images, SEEN)
    pooled = model.visual_projection(model.vision_model(seen).pooler_output)
    return torch.nn.functional.normalize(pooled, dim=-1)


class Captions:
    """Tokens of every caption, by animal, colour and background (the last two may be unnamed)."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self.shape = (len(ANIMALS), len(COLOUR_NAMES) + 1, len(COLOUR_NAMES) + 1)
        texts = [caption(int(a), int(c) - 1, int(g) - 1) for a, c, g in np.ndindex(self.shape)]
        tokens = tokenise(tokenizer, texts)
        longest = int((tokens != tokenizer.eos_token_id).sum(1).max()) + 1
        self.tokens = tokens[:, :longest].reshape(*self.shape, longest)

    def __call__(
        self, animal: torch.Tensor, colour: torch.Tensor, ground: torch.Tensor
    ) -> torch.Tensor:
        """`B x L` tokens; colour and ground may be -1."""
        return self.tokens[animal, colour + 1, ground + 1]


def phrases(draw: np.random.Generator) -> list[tuple[int, int]]:
    """The (colour, background) pairs of one batch.

    One is bare, two are alike but for the background, two but for the colour.
    """
    colours = draw.permutation(len(COLOUR_NAMES))
    c1, c2, c3 = (int(c) for c in colours[:3])
    b1, b2 = (int(b) for b in colours[3:5])
    return [(NATURAL, UNNAMED), (c1, b1), (c1, b2), (c2, b1), (c3, UNNAMED)]


def contrast(logits: torch.Tensor, target: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each row, without the columns that are true of it beside its target."""
    rows = torch.arange(len(target))
    also = true.clone()
    also[rows, target] = False
    return torch.nn.functional.cross_entropy(logits.masked_fill(also, -torch.inf), target)


@torch.no_grad()
def accuracy(model: CLIPModel, tokenizer: CLIPTokenizer, pool: Path) -> tuple[float, float]:
    """Top-1 animal among "a <animal>", top-1 colour among "a <colour> <animal>" of that animal."""
    model.eval()
    captions = Captions(tokenizer)
    data = np.load(pool)
    animals, colours = (torch.from_numpy(data[name]).long() for name in ("animal", "colour"))
    features = torch.cat(
        [image_features(model, images) for images in to_tensor(data["pixels"]).split(500)]
    )
    every, hues = torch.arange(len(ANIMALS)), torch.arange(len(COLOUR_NAMES))
    bare = text_features(
        model, captions(every, torch.full_like(every, -1), torch.full_like(every, -1))
    )
    animal = (features @ bare.T).argmax(1)
    painted = colours != NATURAL
    pairs = captions(every.repeat_interleave(len(hues)), hues.repeat(len(every)), torch.tensor(-1))
    bank = text_features(model, pairs).reshape(len(every), len(hues), -1)
    colour = torch.einsum("bd,bcd->bc", features, bank[animals]).argmax(1)
    model.train()
    return float((animal == animals).float().mean()), float(
        (colour == colours)[painted].float().mean()
    )


def train(
    pool: Path,
    heldout: Path,
    codec_folder: Path,
    tokenizer_folder: Path,
    out: Path,
    steps: int,
    each: int = 16,
    seed: int = 7,
) -> None:
    """`each` pictures a phrase, five phrases a step, against all animals in all five phrases."""
    torch.manual_seed(seed)
    codec = EmojiCodec.from_pretrained(codec_folder)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    captions = Captions(tokenizer)
    data = np.load(pool)
    pixels = data["pixels"]
    animals, colours, grounds = (
        torch.from_numpy(data[name]).long() for name in ("animal", "colour", "ground")
    )
    model = scorer(tokenizer).train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.05)
    first = load(out, model, optimizer)
    every = torch.arange(len(ANIMALS))
    for step in range(first, steps):
        draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
        pairs = phrases(np.random.default_rng((seed, step)))
        index, target, bank_colour, bank_ground = [], [], [], []
        for number, (colour, ground) in enumerate(pairs):
            fits = ((colours == colour) | (colour == NATURAL)) & (
                (grounds == ground) | (ground == UNNAMED)
            )
            found = fits.nonzero()[:, 0]
            if len(found):
                chosen = found[torch.randint(len(found), (each,), generator=draw)]
                index.append(chosen)
                target.append(number * len(ANIMALS) + animals[chosen])
            bank_colour.append(torch.full_like(every, colour))
            bank_ground.append(torch.full_like(every, ground))
        chosen, wanted = torch.cat(index), torch.cat(target)
        a, c, g = every.repeat(len(pairs)), torch.cat(bank_colour), torch.cat(bank_ground)
        # Of a picture in natural colours no colour word is known to be false.
        true = (animals[chosen, None] == a) & (
            (c == NATURAL) | (colours[chosen, None] == c) | (colours[chosen, None] == NATURAL)
        )
        true &= (g == UNNAMED) | (grounds[chosen, None] == g)
        with torch.no_grad():
            images = augment(to_tensor(pixels[chosen.numpy()]), codec, draw)
        logits = (
            model.logit_scale.exp()
            * image_features(model, images)
            @ text_features(model, captions(a, c, g)).T
        )
        loss = contrast(logits, wanted, true)
        # Each of those captions must also find its picture among the batch.
        loss = loss + 0.5 * contrast(
            logits[:, wanted].T, torch.arange(len(wanted)), true[:, wanted].T
        )
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1.0, (step + 1) / 200, 2 * (steps - step) / steps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=np.log(100))
        if (step + 1) % 200 == 0 or step + 1 == steps:
            save(out, model, optimizer, step + 1)
            print(f"step {step + 1} loss {loss.item():.3f}", flush=True)
    animal_top1, colour_top1 = accuracy(model, tokenizer, heldout)
    print(f"held out: animal {animal_top1:.3f} colour {colour_top1:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, default=Path("work/scorer.npz"))
    parser.add_argument("--heldout", type=Path, default=Path("work/heldout.npz"))
    parser.add_argument("--codec", type=Path, default=Path("work/vae"))
    parser.add_argument("--tokenizer", type=Path, default=Path("work/tokenizer"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=Path("work/scorer"))
    args = parser.parse_args()
    train(args.pool, args.heldout, args.codec, args.tokenizer, args.out, args.steps)


if __name__ == "__main__":
    main()
