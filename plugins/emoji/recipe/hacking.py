"""Climb rewards through the decoder and through the plain one: does the new one open a hole?

A decoder with a steep direction would let a reward change the picture by noise that looks ordinary.
Here brightness, darkness and CLIP are climbed with and without the regularizer, from the same noise
through both decoders, and the reward, log P, the judge and grain are compared where they end.

Usage, from `plugins/emoji`: `python -m recipe.hacking --help`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from dno_emoji.codec import EmojiCodec
from transformers import ResNetForImageClassification

import dno
from recipe import looks, train_judge
from recipe.codec import correct_nothing, of_larger_blocks
from recipe.measure import rounded
from recipe.words import ANIMALS

CASES = {"brightness": "a black {}", "darkness": "a white {}", "clip": "a green {}"}
"""Rewards, and what they are asked for: the first two fight their prompts."""
GAMMAS = (0.0, 1.0)


def plain(codec: EmojiCodec) -> EmojiCodec:
    """A codec of the same latents with the 32 px version's pictures, each pixel four times."""
    found = EmojiCodec.from_config(codec.config)
    found.load_state_dict(codec.state_dict())
    small = codec.config.patch // 2
    with torch.no_grad():
        synthesis = looks.plain_synthesis(codec).T
        found.synthesis.copy_(of_larger_blocks(synthesis, small).T)
        found.bias.copy_(codec.mean)
    correct_nothing(found.correction)
    return found.requires_grad_(False)


@dataclass(frozen=True)
class Climb:
    """What is climbed, and how far."""

    animals: tuple[str, ...]
    seeds: int
    iterations: int
    lr: float

    def outcome(self, model: Path, reward: str, gamma: float, decoder: str) -> dict[str, Any]:
        """Means over animals and seeds, where it begins and ends."""
        pipe = DiffusionPipeline.from_pretrained(model / "pipeline", dtype=torch.float32)
        if decoder == "old":
            pipe.vae = plain(pipe.vae)
        result = dno.optimize(
            [CASES[reward].format(animal) for animal in self.animals],
            reward=reward,
            paper=True,
            regularizer=[("permutation", gamma)],
            model=pipe,
            batch=self.seeds,
            iterations=self.iterations,
            lr=self.lr,
        )

        judge = ResNetForImageClassification.from_pretrained(model / "judge", dtype=torch.float32)
        asked = [prompt.split()[-1] for prompt, _ in result.items]
        first, last = result.history[0], result.history[-1]
        log_p = torch.tensor(last.log_p["permutation"])
        return {
            "from": torch.tensor(first.rewards[reward]).mean().item(),
            "to": torch.tensor(last.rewards[reward]).mean().item(),
            "log_p_median": log_p.median().item(),
            "log_p_least": log_p.min().item(),
            "judge_right_from": right(judge.eval(), result.initial.samples, asked),
            "judge_right_to": right(judge.eval(), result.last.samples, asked),
            "grain_from": looks.grain(result.initial.samples),
            "grain_to": looks.grain(result.last.samples),
            "pictures": len(asked),
        }


def right(judge: ResNetForImageClassification, samples: torch.Tensor, asked: Sequence[str]) -> int:
    """In how many pictures in [0, 1] the judge sees the animal that was asked for."""
    with torch.no_grad():
        animal, _ = train_judge.scores(judge, samples * 2 - 1)
    seen = [ANIMALS[index] for index in animal.argmax(1).tolist()]
    return sum(a == b for a, b in zip(seen, asked, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", type=Path, default=Path("dno_emoji"), help="holds pipeline and judge"
    )
    parser.add_argument("--rewards", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--decoders", nargs="+", choices=("old", "new"), default=["old", "new"])
    parser.add_argument("--animals", nargs="+", choices=ANIMALS, default=["cat", "dog", "spider"])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("dno_emoji/card/hacking.json"),
        help="what it holds already is not run again",
    )
    args = parser.parse_args()

    climb = Climb(tuple(args.animals), args.seeds, args.iterations, args.lr)
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    for reward, gamma, decoder in product(args.rewards, GAMMAS, args.decoders):
        name = f"{reward}, gamma {gamma:g}, {decoder}"
        if name in found:
            continue
        found[name] = rounded(climb.outcome(args.model, reward, gamma, decoder))
        print(name, found[name], flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
