"""A vision-language model on this machine, with the gradient of its answer."""

from __future__ import annotations

import importlib.util

from dno.plugin import BuildContext, ConfigError, Reward
from dno_vlm_judge._local import LocalReward


class VLMJudgeExact(LocalReward):
    """As vlm-judge, with the exact gradient; it needs torchvision, which transformers' tensor
    processors are made of.

    Images reach the processor as float tensors, unrounded, so that a gradient comes back through
    it: scores differ from those of vlm-judge by what rounding and another resize do. Models whose
    processor cuts the gradient are refused.

    Licence: see the model's page.
    """

    def check(self) -> None:
        """Raise `ConfigError` as vlm-judge does, or where there is no torchvision."""
        super().check()
        if importlib.util.find_spec("torchvision") is None:
            raise ConfigError(
                "the gradient comes through a processor made of torchvision, which is not "
                "installed; install the "
                'torchvision that belongs to your torch, or use "vlm-judge", which is climbed by '
                "estimates"
            )

    def build(self, ctx: BuildContext) -> Reward:
        """Load the model onto `ctx.device`.

        Raises:
            ConfigError: as vlm-judge does, or the model's processor cuts the gradient.
        """
        return self.load(ctx, exact=True)
