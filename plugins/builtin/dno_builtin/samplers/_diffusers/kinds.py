"""Which process a scheduler samples, told from its options: no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from dno.plugin import ConfigError

Kind = Literal["betas", "flow", "EDM", "continuous"]

_FLOW: Final = re.compile("Flow|LTXEuler|SCMScheduler")
_EDM: Final = re.compile("EDM|Cosine|KarrasVe")

_WORDS: Final[Mapping[Kind, str]] = {
    "betas": "a table of betas",
    "flow": "a flow",
    "EDM": "the noise levels of EDM",
    "continuous": "continuous noise levels",
}


def kind_of(config: Mapping[str, Any]) -> Kind | None:
    """The process whose noise levels a scheduler follows; None where that is not told.

    Args:
        config: its options with `_class_name`, as `scheduler_config.json` has them.
    """
    name = str(config.get("_class_name", ""))
    # Some classes sample more than one, as an option says.
    is_flow = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    if is_flow or _FLOW.search(name):
        return "flow"
    if "sigma_data" in config or _EDM.search(name):
        return "EDM"
    if config.get("timestep_type") == "continuous":
        return "continuous"
    if "beta_schedule" in config or "beta_start" in config or "trained_betas" in config:
        return "betas"
    return None


def check_ddim(config: Mapping[str, Any], *, whole: bool) -> None:
    """Raise `ConfigError` where a model's scheduler is not of DDIM's kind.

    DDIM wants a table of betas. From the options of a scheduler without one it would make the
    table of its own defaults, and sample another process than the model learned.

    Args:
        config: see `kind_of`.
        whole: whether it has all options, so that one without betas has none.
    """
    kind = kind_of(config)
    if kind == "betas" or (kind is None and not whole):
        return
    follows = "no table of betas" if kind is None else _WORDS[kind]
    raise ConfigError(
        f"the model's scheduler, {config.get('_class_name')}, follows {follows}, and DDIM, which "
        "needs a table of betas, would sample it wrongly; use the sampler `pipeline`",
        at="model",
    )


def check_same(own: Mapping[str, Any], other: Mapping[str, Any], at: str) -> None:
    """Raise `ConfigError` where a scheduler samples another process than the model's own does.

    Args:
        own: the model's, see `kind_of`.
        other: what is to take its place.
        at: the option that named it.
    """
    before, after = kind_of(own), kind_of(other)
    if before is None or after is None or before == after:
        return

    mend = "choose a scheduler of that kind"
    if before == "flow" and after == "betas":
        mend = (
            'set use_flow_sigmas = true and prediction_type = "flow_prediction" where it has '
            "them, or choose one of that kind"
        )
    raise ConfigError(
        f"{other.get('_class_name')} follows {_WORDS[after]}, but the model was made for "
        f"{_WORDS[before]} ({own.get('_class_name')}), and would be sampled wrongly; {mend}",
        at=at,
    )
