"""What a model that is fitted to picks says of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from dno_builtin.rewards._picks import Fit
    from dno_builtin.rewards.picks import Picker
    from PIL.Image import Image

    Model: TypeAlias = Fit


def scores_of(pictures: Sequence[Image], model: Model, picker: Picker) -> list[float]:
    """A score for each picture.

    Args:
        pictures: at least one.
        model: what picks led to.
        picker: what computes the features that the model was fitted to.
    """
    import torch

    rows = [picker.describe(picture) for picture in pictures]
    scores: list[float] = model.scores(torch.tensor(rows, dtype=torch.float64)).tolist()
    return scores


def favourite(scores: Sequence[float]) -> float:
    """How likely the picture with the highest score is to be picked, by Luce's choice rule."""
    import torch

    return float(torch.softmax(torch.tensor(scores, dtype=torch.float64), dim=0).max())


def is_foreseen(scores: Sequence[float], picked: int) -> bool:
    """Whether what was picked has the highest score, and no other picture the same."""
    others = [score for number, score in enumerate(scores) if number != picked]
    return scores[picked] > max(others)
