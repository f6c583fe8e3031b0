"""A vision-language model on this machine as a black box."""

from __future__ import annotations

from typing import ClassVar

from dno.plugin import BuildContext, Reward
from dno_vlm_judge._local import LocalReward


class VLMJudge(LocalReward):
    """Probability that a vision-language model says yes, not no, when asked if an image shows its
    prompt, in [0, 1].

    P(yes) / (P(yes) + P(no)), where each is the sum over the tokens that read so in any case, with
    or without spaces around: the normalised form of VQAScore, whose own form is P(yes) (Lin et al.,
    ECCV 2024, arXiv 2404.01291).

    It has no gradient: images reach the model's own processor as 8-bit pictures, whatever that
    processor does, so that any image-text-to-text model of transformers will do. vlm-judge-exact
    has one.

    Licence: see the model's page.
    """

    differentiable: ClassVar[bool] = False

    def build(self, ctx: BuildContext) -> Reward:
        """Load the model onto `ctx.device`.

        Raises:
            ConfigError: it cannot be loaded, has no chat template, or no tokens that read yes and
                no.
        """
        return self.load(ctx, exact=False)
