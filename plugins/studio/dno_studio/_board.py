"""Pieces of the tab Pick. Whatever people wrote is escaped, as in `_html.py`."""

from __future__ import annotations

import base64
from pathlib import Path

from dno_studio._html import note as note
from dno_studio._html import text
from dno_studio._job import Phase, View
from dno_studio._round import SHOWN, beside


def board(view: View, before: int, count: int, *, can_pick: bool, can_undo: bool) -> str:
    """The pictures, each a button.

    Args:
        view: what is to be seen.
        before: how many jobs come before this one.
        count: how many pictures are drawn.
        can_pick: whether a click on one picks it.
        can_undo: whether there is a pick to take back.
    """
    state = _state(view, before, count, can_pick=can_pick, can_undo=can_undo)
    parts = [
        f'<p class="dno-state" data-phase="{view.phase}" data-pick="{str(can_pick).lower()}" '
        f'role="status">{text(state)}</p>',
        '<div class="dno-board">',
    ]
    for number in range(count):
        if number < len(view.drawn):
            parts.append(_picture(number + 1, view.drawn[number].address, can_pick=can_pick))
        elif number == len(view.drawn) and view.now and view.phase is Phase.RUNNING:
            parts.append(_picture(number + 1, view.now, can_pick=False, coming=True))
        elif view.phase is not Phase.ENDED:
            parts.append(f'<div class="dno-empty"><span class="dno-key">{number + 1}</span></div>')
    parts.append("</div>")
    if view.told:
        kind = "dno-told dno-failed" if view.failed else "dno-told"
        parts.append(f'<pre class="{kind}">{text(view.told)}</pre>')
    return "".join(parts)


def _picture(number: int, address: str, *, can_pick: bool, coming: bool = False) -> str:
    kind = "dno-shot dno-coming" if coming else "dno-shot"
    able = "" if can_pick else " disabled"
    return (
        f'<button type="button" class="{kind}" data-number="{number}" '
        f'aria-label="Pick picture {number}"{able}><img src="{address}" alt="">'
        f'<span class="dno-key">{number}</span></button>'
    )


def _state(view: View, before: int, count: int, *, can_pick: bool, can_undo: bool) -> str:
    if can_pick:
        return "Click the one that you like best, or press its number."
    if view.phase is Phase.WAITING:
        jobs = "1 job comes" if before == 1 else f"{before} jobs come"
        return f"Waiting: {jobs} before yours." if before else "Your turn comes."
    if view.phase is Phase.ENDED:
        ended = "It did not go well." if view.failed else "Stopped."
        back = "Undo the last pick to pick another, or begin" if can_undo else "Begin"
        return f'{ended} {back} anew: "Four pictures".'
    if view.phase is Phase.LOADING and not view.drawn:
        return "Loading the models ..."
    return f"Drawing picture {min(len(view.drawn) + 1, count)} of {count} ..."


def learnt(picks: int, foreseen: tuple[int, int], favourite: float | None) -> str:
    """How many picks were made, and how sure the model is, which never says of which picture: it
    would be picked for that."""
    if not picks:
        return ""
    made = "1 pick" if picks == 1 else f"{picks} picks"
    parts = [f"<strong>{made}</strong>"]
    hits, tries = foreseen
    if tries:
        parts.append(
            f"the picks before it foresaw {hits} of {tries} (by luck: 1 in {SHOWN})"
            if tries == 1
            else f"the picks before each foresaw {hits} of {tries} (by luck: 1 in {SHOWN})"
        )
    if favourite is not None:
        parts.append(f"of these four the model gives its favourite {favourite:.0%}")
    return f'<p class="dno-learnt" data-picks="{picks}">{"; ".join(parts)}.</p>'


def kept(
    file: Path, again: str, run: str, anew: str, home: Path, *, whole: bool, saved: bool
) -> str:
    """The file of picks, and what it is good for.

    Args:
        file: the picks.
        again: the command that draws the last pick again.
        run: name of its run folder.
        anew: the command that climbs what was learnt from the last pick, too.
        home: the folder that commands are typed in.
        whole: whether the last pick's run went to its end.
        saved: whether the file is there to be saved, as far as it can be read.
    """
    draws = "This draws it again:" if whole else "It was stopped; this goes on to its end:"
    save = _save(file) if saved else ""
    return (
        '<div class="dno-kept">'
        f"<p>Picks: <code>{text(beside(file, home))}</code>{save}"
        f"</p><p>Your last pick is the run <code>{text(run)}</code>. {draws}</p>"
        f'<pre class="dno-command"><code>{text(again)}</code></pre>'
        "<p>What was learnt from all of them climbs this prompt, or any other:</p>"
        f'<pre class="dno-command"><code>{text(anew)}</code></pre></div>'
    )


def _save(file: Path) -> str:
    try:
        data = base64.b64encode(file.read_bytes()).decode()
    except OSError:
        return ""
    address = f"data:application/x-ndjson;base64,{data}"
    return f' <a download="{text(file.name)}" href="{address}">save</a>'
