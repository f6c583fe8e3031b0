"""What somebody likes, learnt from which of a few pictures they picked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from dno.plugin import BuildContext, ConfigError, Origin, Reward, short
from dno_builtin.rewards._files import ModelReward, check_model, has_processor, locate
from dno_builtin.rewards.picks_file import (
    Kind,
    Pick,
    add_pick,
    count_lines,
    read_picks,
    same_kind,
    undo_pick,
)
from dno_builtin.rewards.picks_file import Picks as SavedPicks

if TYPE_CHECKING:
    from dno_builtin.rewards._picks import Features, Fit

COLOURS = 41
"""How many numbers `colours` has, without importing it."""


class Picks(ModelReward):
    """How likely a picture is to be picked, learnt from picks: 0 for the average of those shown.

    A Bradley-Terry model (1952): of two pictures whose scores differ by d, the higher one is picked
    with probability 1 / (1 + exp(-d)). The score is linear in features of the picture, so it has no
    bounds; its weights are fitted to the picks of a file, by a convex problem that has one
    solution, and no prompt changes it. `dno ui` collects picks on a page, `Picker` in Python.

    Features are `colours` (which colours, where, how much contrast and detail: 41 numbers, and no
    model) or the embedding of a CLIP model's image tower, `clip`.
    """

    weightless = True

    file: Path
    """File of picks, JSON Lines, to which picks are only ever added."""
    lines: int | None = Field(default=None, ge=2)
    """How many of the file's lines count, as `head -n` does. If not given, all that there are when
    the run is configured; that number is kept, so that it is repeated and resumed with the same
    although more picks were made since."""
    features: Literal["colours", "clip"] = "colours"
    """What the score is linear in; the file holds one or the other."""
    model: str = Field(default="emoji-clip", min_length=1)
    """For the features `clip`: an installed model's name, a folder that holds a `CLIPModel` with
    its `CLIPProcessor`, or a hub id (owner/name); no code is run to read its weights."""
    ridge: float = Field(default=1.0, gt=0)
    """How strongly few picks are held to mean little: the factor of |w|^2 / 2, where differences
    of features are measured in units of their root-mean-square length."""

    @model_validator(mode="after")
    def _all_that_there_are(self) -> Self:
        """Note how many lines there are, so that none that comes later counts."""
        if self.lines is None:
            # What pydantic means a validator to do; the model is frozen for everybody else.
            object.__setattr__(self, "lines", _lines_of(self.file))
        return self

    @classmethod
    def located(cls, options: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """See `PluginConfig.located`; a file that was not found from the current folder has its
        lines counted where it is.
        """
        found = super().located(options, origin)
        file = found.get("file")
        if found.get("lines") is None and isinstance(file, (str, Path)):
            found["lines"] = _lines_of(Path(file))
        return found

    def check(self) -> None:
        """Raise `ConfigError` where the file is missing, damaged, without a pick or of other
        features, or the model is missing; the file is read whole.
        """
        self._picks()
        if self.features == "clip":
            _check_tower(self.model, self.revision)

    def _picks(self) -> SavedPicks:
        saved = read_picks(self.file, self.lines)
        if saved.kind.features != self.features:
            same_kind(saved.kind, Kind(self.features, 0), self.file)
        if self.features == "colours":
            same_kind(saved.kind, Kind("colours", COLOURS), self.file)
        elif (count := _embedding(locate(self.model))) is not None:
            same_kind(saved.kind, Kind("clip", count), self.file)
        if not saved.picks:
            raise ConfigError(
                f'"{self.file}" holds no picks to learn from; make some: dno ui', at="file"
            )
        return saved

    def build(self, ctx: BuildContext) -> Reward:
        """Fit the model to the picks, and load the image tower where there is one.

        Raises:
            ConfigError: see `check`; or the tower is another than the picks' features are of.
        """
        from dno_builtin.rewards._picks import PicksScore, fit, kind_of

        saved = self._picks()
        features = self._features(ctx)
        if not ctx.weightless:
            same_kind(saved.kind, kind_of(features, self.features), self.file)
        return PicksScore(features, fit(saved.picks, self.ridge))

    def _features(self, ctx: BuildContext) -> Features:
        return _features(self.features, self.model, self.revision, self.dtype, ctx)


class Picker:
    """Writes picks into a file, and tells what they say so far.

        >>> picker = Picker("mine.jsonl")  # doctest: +SKIP
        >>> picker.add(liked, others)  # doctest: +SKIP
        >>> dno.optimize("a cat", reward={"use": "picks", "file": "mine.jsonl"})  # doctest: +SKIP

    Args:
        file: where; made with the first pick, and only ever added to.
        features: as the reward takes them.
        model: as the reward takes it.
        ridge: as the reward takes it.

    Raises:
        ConfigError: an option cannot be what it is given as.
    """

    def __init__(
        self,
        file: str | Path,
        *,
        features: Literal["colours", "clip"] = "colours",
        model: str = "emoji-clip",
        ridge: float = 1.0,
    ) -> None:
        given = {"file": file, "features": features, "model": model, "ridge": ridge}
        try:
            # Any number of lines, so that nothing is read yet.
            options = Picks.model_validate({**given, "lines": 2})
        except ValidationError as error:
            raise _told(error) from None
        self.file = options.file
        self.features = options.features
        self.model = options.model
        self.ridge = options.ridge

    def add(self, chosen: Any, others: Iterable[Any]) -> None:
        """Add a pick.

        Args:
            chosen: the picture that was liked best: of Pillow with 8 bits a channel, or a
                floating-point tensor `3 x H x W` in [0, 1].
            others: those that were shown beside it, at least one.

        Raises:
            ConfigError: the file is damaged or of another kind, or the model cannot be had.
            RunError: the file cannot be written.
            ValueError: what was given are no pictures.
        """
        beside = _several(others)
        if not beside:
            raise ValueError("a pick needs others that were not picked")
        first, *rest = (self.describe(picture) for picture in (chosen, *beside))
        add_pick(self.file, self._kind, Pick(first, tuple(rest)))

    def undo(self) -> None:
        """Take the last pick back.

        Raises:
            ConfigError: the file is missing or damaged, or no pick is left in it.
            RunError: it cannot be written.
        """
        undo_pick(self.file)

    def describe(self, picture: Any) -> tuple[float, ...]:
        """The features of a picture, as a file holds them.

        Raises:
            ConfigError: the model cannot be had.
            ValueError: it is no picture, see `add`.
        """
        import torch

        from dno_builtin.rewards._picks import numbers, picture_tensor

        with torch.no_grad():
            return numbers(self._seen(picture_tensor(picture)))[0]

    def saved(self) -> SavedPicks | None:
        """What the file holds so far; None where there is none."""
        return read_picks(self.file) if self.file.exists() else None

    def fit(self) -> Fit | None:
        """The model that the picks lead to; None where there are none."""
        from dno_builtin.rewards._picks import fit

        saved = self.saved()
        return fit(saved.picks, self.ridge) if saved and saved.picks else None

    def foreseen(self) -> tuple[int, int]:
        """Of all picks but the first, how many were foreseen from those before, and of how many."""
        from dno_builtin.rewards._picks import foreseen

        saved = self.saved()
        return foreseen(saved.picks, self.ridge) if saved else (0, 0)

    def foreseen_last(self) -> bool | None:
        """Whether the newest pick was foreseen from those before it; None where it is the first.

        One fit, where `foreseen` takes one for each pick.
        """
        from dno_builtin.rewards._picks import is_foreseen

        saved = self.saved()
        if saved is None or len(saved.picks) < 2:
            return None
        return is_foreseen(saved.picks[:-1], saved.picks[-1], self.ridge)

    def chances(self, pictures: Iterable[Any]) -> list[float] | None:
        """How likely each of some pictures is to be picked among them; None without picks.

        Raises:
            ConfigError: the file is damaged or of another kind, or the model cannot be had.
            ValueError: what was given are no pictures, see `add`, or none.
        """
        import torch

        from dno_builtin.rewards._picks import chances, fit

        saved = self.saved()
        if saved is None or not saved.picks:
            return None
        same_kind(saved.kind, self._kind, self.file)
        rows = [self.describe(picture) for picture in _several(pictures)]
        if not rows:
            raise ValueError("there is no picture to be picked")
        model = fit(saved.picks, self.ridge)
        return chances(model.scores(torch.tensor(rows, dtype=torch.float64)))

    @cached_property
    def _seen(self) -> Features:
        import torch

        context = BuildContext(torch.device("cpu"), torch.float32)
        return _features(self.features, self.model, None, "float32", context)

    @cached_property
    def _kind(self) -> Kind:
        from dno_builtin.rewards._picks import kind_of

        return kind_of(self._seen, self.features)


def _lines_of(file: Path) -> int | None:
    """How many lines of a file count; None where it holds too few, which `check` tells."""
    count = count_lines(file)
    return None if count is None or count < 2 else count


def _told(error: ValidationError) -> ConfigError:
    """The first thing that pydantic found wrong with an option, as one sentence."""
    first = error.errors()[0]
    says = first["msg"][0].lower() + first["msg"][1:]
    return ConfigError(f"{says}, got {short(first['input'])}", at=str(first["loc"][0]))


def _several(pictures: Any) -> list[Any]:
    try:
        return list(pictures)
    except TypeError:
        raise ValueError(
            f"several pictures are wanted, such as a list of them, not a {type(pictures).__name__}"
        ) from None


def _features(
    features: str, model: str, revision: str | None, dtype: str, ctx: BuildContext
) -> Features:
    import torch

    from dno_builtin.rewards._colours import colours
    from dno_builtin.rewards._picks import load_tower

    if features == "colours":
        return colours
    if not ctx.weightless:
        _check_tower(model, revision)
    return load_tower(locate(model), revision, getattr(torch, dtype), ctx)


def _check_tower(model: str, revision: str | None) -> None:
    found = locate(model)
    check_model(found, ["clip"], "CLIP", revision)
    if Path(found).is_dir() and not has_processor(found):
        raise ConfigError(
            f'"{found}" holds no processor; save the model\'s CLIPProcessor there', at="model"
        )


def _embedding(model: str) -> int | None:
    """How many numbers a folder's CLIP model makes of a picture, where its configuration says."""
    try:
        found = json.loads(Path(model, "config.json").read_text(encoding="utf-8"))
        count = found["projection_dim"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return count if isinstance(count, int) else None
