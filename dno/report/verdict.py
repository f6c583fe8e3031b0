"""A run in a few lines of words."""

from __future__ import annotations

from typing import Final

from dno.report.facts import Change, Facts
from dno.wording import clean

_UNLIKELY: Final = 1e-4
"""Noise under this is warned of. The p-value is taken times the samples, of which the least is
looked at (Bonferroni): with g free figures a run of ordinary draws is warned of in at most g of
10,000 cases."""


def verdict(facts: Facts) -> str:
    """What rose and fell, how and where it ended, what it cost, and what to beware of."""
    lines = [_changes(facts), _ending(facts), _cost(facts)]
    reasons = [*facts.failures.values(), *([facts.error] if facts.error else [])]
    lines += [f"failed: {why}" for why in dict.fromkeys(reasons)]
    if facts.passed_over:
        several = "a proposal" if facts.passed_over == 1 else f"{facts.passed_over} proposals"
        lines.append(f"passed over: {several} that could not be evaluated")
    lines += [warning for warning in (_warning(facts), _noise_warning(facts)) if warning]
    return clean("\n".join(lines))


def _changes(facts: Facts) -> str:
    """Rewards and log P from -> to, means over the samples."""
    told = [_change(change, change.name) for change in (*facts.rewards, *facts.monitors)]
    if facts.log_p is not None:
        # The one that decided which noise is healthy, by its name.
        told.append(_change(facts.log_p, f"log P ({facts.log_p.name})"))
    return ", ".join(told)


def _change(change: Change, name: str) -> str:
    return f"{name} {change.before:.4g} -> {change.after:.4g}"


def _ending(facts: Facts) -> str:
    because = f" ({facts.reason})" if facts.reason else ""
    where = ", ".join(map(str, facts.best_iterations))
    told = f"{facts.status}{because}: best at iteration {where} of {facts.iterations}"
    if facts.left_at is None:
        return told
    return f"{told}; noise left N(0, I) at iteration {facts.left_at}, where it ended is last.png"


def _cost(facts: Facts) -> str:
    evaluations = f"{facts.network_evaluations:,} network evaluations"
    calls = f"{facts.reward_calls:,} reward calls"
    told = f"{facts.seconds:.0f} s; a sample: {evaluations}, {calls}"
    if not facts.peak_memory:
        return told
    return f"{told}; peak memory {facts.peak_memory / 2**20:.0f} MB"


def _warning(facts: Facts) -> str:
    """Where what was climbed rose and what was held out fell: a sign of reward hacking."""
    climbed = [change for change in facts.rewards if change.name in facts.climbed]
    rose = [change.name for change in climbed if change.moved > 0]
    fell = [change.name for change in facts.monitors if change.moved < 0]
    if not rose or not fell:
        return ""
    return (
        f"careful: {' and '.join(rose)} rose while {' and '.join(fell)}, held out, fell; "
        "look at best.png"
    )


def _noise_warning(facts: Facts) -> str:
    """Where a p-value that the climb was free to spoil says that the noise is no Gaussian draw.

    One that was as low at the start is the seed's doing.
    """
    samples = len(facts.best_iterations)
    spoilt = [
        evidence
        for evidence in facts.noise
        if evidence.after * samples < _UNLIKELY and not evidence.after >= evidence.before
    ]
    if not spoilt:
        return ""
    worst = min(spoilt, key=lambda evidence: evidence.after)
    whose = f" of sample {worst.sample}" if samples > 1 else ""
    more = f" (and {len(spoilt) - 1} more fell so low)" if len(spoilt) > 1 else ""
    return (
        f"careful: {worst.name} of the best noise{whose} fell from {worst.before:.2g} to "
        f"{worst.after:.2g}{more}, so it has left N(0, I); climb less far (fewer iterations or "
        "smaller steps), or hold the noise with a constraint or a regularizer"
    )
