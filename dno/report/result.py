"""What `dno.optimize` hands back: an outcome that shows itself."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from dno.core.result import Outcome
from dno.media import thumbnails
from dno.report.facts import facts_of
from dno.report.html import html_of
from dno.report.verdict import verdict

if TYPE_CHECKING:
    from PIL.Image import Image


class Result(Outcome):
    """A run's outcome, with words and pictures for people.

        >>> result.images[0].save("cat.png")  # doctest: +SKIP
        >>> print(result.verdict())  # doctest: +SKIP

    In a notebook it shows its pictures, its curves and its verdict.
    """

    @classmethod
    def of(cls, outcome: Outcome) -> Result:
        """The same outcome."""
        values = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}
        return cls(**values)

    @property
    def images(self) -> list[Image]:
        """The best sample of each item as a picture, `items` long.

        Of a video it is the middle frame, of a sound the waveform; other samples have none.
        """
        return thumbnails(self.medium, self.best.samples)

    def verdict(self) -> str:
        """Rewards and log P from -> to, how and where it ended, what it cost, what to beware of."""
        return verdict(facts_of(self))

    def _repr_html_(self) -> str:
        snapshots = {"initial": self.initial, "best": self.best}
        strip = {
            name: thumbnails(self.medium, snapshot.samples) for name, snapshot in snapshots.items()
        }
        return html_of(facts_of(self), self.history, strip)
