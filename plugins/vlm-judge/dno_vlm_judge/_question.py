"""What every judge is asked."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from dno.plugin import RewardConfig

PLACE = "{prompt}"


class QuestionReward(RewardConfig):
    """Base of rewards that ask a question about each image."""

    judges = "image"

    question: str = Field(
        default='Does this figure show "{prompt}"? Please answer yes or no.', min_length=1
    )
    """What is asked about an image, with {prompt} in its prompt's place; the wording of VQAScore
    (Lin et al., ECCV 2024) unless given. One without {prompt} is asked of all images alike: "Is
    this a photo? Please answer yes or no." """

    @field_validator("question")
    @classmethod
    def _has_no_other_place(cls, value: str) -> str:
        if other := [place for place in re.findall(r"\{\s*\w*\s*\}", value) if place != PLACE]:
            raise ValueError(f"has {other[0]}, which nothing fills; the prompt's place is {PLACE}")
        return value

    def ask(self, prompt: str) -> str:
        """The question about an image of this prompt."""
        return self.question.replace(PLACE, prompt)
