"""Pieces of the page. Whatever people or plugins wrote is escaped here, and nowhere else."""

from __future__ import annotations

import html
from collections.abc import Iterable

from dno.plugin import Option, clean
from dno_studio._job import Phase, View, finite

WIDTH = 600
HEIGHT = 160


def text(words: object) -> str:
    """Words as HTML shows them, with nothing in them that a browser would obey."""
    return html.escape(clean(str(words)))


def progress(view: View, before: int) -> str:
    """How far a job is, its pictures and the curve of its reward."""
    parts = [f'<p class="dno-state" data-phase="{view.phase}">{text(_state(view, before))}</p>']
    if view.first:
        named = "Best" if view.phase is Phase.ENDED and not view.failed else "Now"
        parts.append(
            '<div class="dno-pictures">'
            + _figure("Plain", view.first, "first")
            + _figure(named, view.now, "now")
            + "</div>"
        )
    parts.append(curve(view.rewards))
    if view.told:
        kind = "dno-told dno-failed" if view.failed else "dno-told"
        parts.append(f'<pre class="{kind}">{text(view.told)}</pre>')
    if view.folder is not None and view.rewards:
        parts.append(f'<p class="dno-folder">Run: <code>{text(view.folder.name)}</code></p>')
    return "".join(parts)


def _state(view: View, before: int) -> str:
    if view.phase is Phase.WAITING:
        runs = "1 run comes" if before == 1 else f"{before} runs come"
        return f"Waiting: {runs} before yours." if before else "Your turn comes."
    if view.phase is Phase.LOADING:
        return "Loading the models ..."
    if view.phase is Phase.RUNNING:
        if not view.rewards:
            return "Drawing the first picture ..."
        return f"Evaluation {len(view.rewards)} of {view.iterations + 1}"
    if view.failed:
        return "It did not go well."
    return f"Done, after {len(view.rewards)} evaluations." if view.rewards else "Stopped."


def _figure(named: str, address: str, which: str) -> str:
    return (
        f'<figure><img data-shot="{which}" src="{address}" alt="{named}">'
        f"<figcaption>{named}</figcaption></figure>"
    )


def curve(rewards: tuple[float, ...]) -> str:
    """The reward over the evaluations; nothing before the second one."""
    drawn = finite(rewards)
    if len(drawn) < 2:
        return ""
    low = min(drawn)
    span = max(drawn) - low or 1.0
    points = [
        f"{WIDTH * i / (len(rewards) - 1):.1f},{HEIGHT * (1 - (value - low) / span):.1f}"
        for i, value in enumerate(rewards)
        if finite((value,))
    ]
    return (
        f'<figure class="dno-curve"><figcaption>Reward: {rewards[0]:.4g} at the start, '
        f"{rewards[-1]:.4g} now, {max(drawn):.4g} at most</figcaption>"
        f'<svg viewBox="-4 -4 {WIDTH + 8} {HEIGHT + 8}" role="img" aria-label="Reward">'
        f'<polyline points="{" ".join(points)}"/></svg></figure>'
    )


def frame(report: str) -> str:
    """A report in a frame that may run its own scripts, and reaches nothing of this page."""
    return (
        '<iframe class="dno-report" title="Report" sandbox="allow-scripts" '
        f'srcdoc="{html.escape(report)}"></iframe>'
    )


def note(words: object) -> str:
    """A sentence."""
    return f"<p>{text(words)}</p>"


def plugin(title: str, origin: str, about: str, options: Iterable[Option]) -> str:
    """A plugin with its options, as `dno plugins show` has them."""
    rows = "".join(
        f"<tr><td><code>{text(one.name)}</code></td><td>{text(one.type)}</td>"
        f"<td>{text('required' if one.default is None else one.default)}</td>"
        f"<td>{text(one.meaning)}</td></tr>"
        for one in options
    )
    table = (
        "<table><thead><tr><th>Option</th><th>Type</th><th>Default</th><th>Meaning</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )
    return (
        f'<h3>{text(title)} <small>{text(origin)}</small></h3><p class="dno-about">{text(about)}'
        f"</p>{table if rows else note('It has no options.')}"
    )
