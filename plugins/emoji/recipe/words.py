"""The caption language: 45 animals, 11 colours, and the few words around them."""

from __future__ import annotations

import re

# fmt: off
ANIMALS: tuple[str, ...] = (
    "ant", "bat", "bear", "bee", "beetle", "bird", "butterfly", "camel", "cat", "chicken", "cow",
    "deer", "dog", "dolphin", "duck", "fish", "fly", "fox", "frog", "goat", "goose", "gorilla",
    "hedgehog", "horse", "kangaroo", "lion", "lizard", "llama", "monkey", "mouse", "pig", "rabbit",
    "raccoon", "rat", "shark", "sheep", "snake", "spider", "squirrel", "tiger", "turkey", "turtle",
    "whale", "wolf", "zebra",
)
# fmt: on

#: Name -> sRGB in 0..255, as painted.
COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (28, 28, 32),
    "white": (246, 246, 246),
    "gray": (136, 138, 142),
    "red": (218, 38, 40),
    "orange": (246, 136, 28),
    "yellow": (250, 216, 46),
    "green": (56, 168, 72),
    "blue": (48, 108, 224),
    "purple": (138, 66, 186),
    "pink": (250, 146, 192),
    "brown": (122, 74, 40),
}
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)

#: Index used for an animal in its own colours, and for a background that the caption does not name.
NATURAL = -1
UNNAMED = -1


def with_article(phrase: str) -> str:
    """`phrase` after "a" or "an"."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def caption(animal: int, colour: int = NATURAL, background: int = UNNAMED) -> str:
    """The caption of a picture, such as "a red fox on a blue background", from indices."""
    name = ANIMALS[animal]
    text = with_article(name if colour == NATURAL else f"{COLOUR_NAMES[colour]} {name}")
    return (
        text
        if background == UNNAMED
        else f"{text} on {with_article(COLOUR_NAMES[background])} background"
    )


def vocabulary() -> list[str]:
    """Every word that a caption may contain, sorted."""
    words = {"a", "an", "on", "background", *COLOUR_NAMES, *ANIMALS}
    assert all(re.fullmatch("[a-z]+", word) for word in words)
    return sorted(words)
