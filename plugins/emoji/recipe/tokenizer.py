"""Build the tokenizer: a CLIP one in which every caption word is a single token.

Usage, from `plugins/emoji`: `python -m recipe.tokenizer --help`.
"""

from __future__ import annotations

import argparse
import itertools
import string
from pathlib import Path

from transformers import CLIPTokenizer

from recipe.words import vocabulary

MAX_LENGTH = 16
_END = "</w>"


def _spell(word: str, merges: dict[tuple[str, str], int]) -> list[str]:
    """The pieces that byte-pair merging, best rank first, leaves of a word."""
    pieces = [*word[:-1], word[-1] + _END]
    while True:
        pairs = [pair for pair in itertools.pairwise(pieces) if pair in merges]
        if not pairs:
            return pieces
        best = min(pairs, key=merges.__getitem__)
        at = next(i for i in range(len(pieces)) if tuple(pieces[i : i + 2]) == best)
        pieces[at : at + 2] = ["".join(best)]


def build() -> CLIPTokenizer:
    """Letters, the merges that make each caption word one piece, and CLIP's special tokens.

    A word outside the captions is spelt in pieces; anything but letters is the unknown token.
    """
    merges: dict[tuple[str, str], int] = {}
    for word in vocabulary():
        while len(pieces := _spell(word, merges)) > 1:
            merges[pieces[0], pieces[1]] = len(
                merges
            )  # a later merge never disturbs an earlier word
    letters = string.ascii_lowercase
    pieces = [
        *letters,
        *(letter + _END for letter in letters),
        *(left + right for left, right in merges),
    ]
    ids = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    for special in ("<|unknown|>", "<|startoftext|>", "<|endoftext|>"):
        ids[special] = len(ids)
    return CLIPTokenizer(
        vocab=ids,
        merges=list(merges),
        unk_token="<|unknown|>",
        pad_token="<|endoftext|>",
        model_max_length=MAX_LENGTH,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("work/tokenizer"))
    args = parser.parse_args()
    tokenizer = build()
    tokenizer.save_pretrained(args.out)
    print(f"{len(tokenizer)} tokens -> {args.out}")


if __name__ == "__main__":
    main()
