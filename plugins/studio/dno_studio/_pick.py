"""The tab Pick: of four pictures the one that is liked is clicked, and the next four are better."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
from dno_builtin.rewards.picks import Picker

import dno
from dno.plugin import ConfigError
from dno_studio import _board
from dno_studio._asked import LONGEST_PROMPT, model_of, number_of, prompt_of
from dno_studio._desk import Desk
from dno_studio._job import Drawn, Job, Phase
from dno_studio._round import SHOWN, Learnt, Round, Shot, next_shots
from dno_studio._taste import favourite, is_foreseen, scores_of
from dno_studio._workshop import named_after

if TYPE_CHECKING:
    from dno_studio._taste import Model

SCRIPT = (Path(__file__).parent / "pick.js").read_text("utf-8")
STEPS = 10
ITERATIONS = 5
LEAST = 2
"""Pictures that somebody can choose between."""


@dataclass(eq=False)
class Turn:
    """Four pictures that were asked for."""

    round: Round
    job: Job
    model: Model | None = None
    """What the picks before led to; None before the first, and where it could not be fitted."""
    picked: int | None = None
    foreseen: bool | None = None
    """Whether the model foresaw what was picked; None before, and without a model."""
    scores: list[float] | None = None
    """Of its pictures by the model, once they are all there."""

    @property
    def drawn(self) -> tuple[Drawn, ...]:
        """Its pictures so far."""
        return self.job.view.drawn

    @property
    def open(self) -> bool:
        """Whether one of its pictures can be picked."""
        ended = self.job.view.phase is Phase.ENDED
        return ended and self.picked is None and len(self.drawn) >= LEAST


@dataclass(eq=False)
class Sitting:
    """One person's picks, from the first pictures on."""

    picker: Picker
    first: Round
    seed: int
    turns: list[Turn] = field(default_factory=list)
    """The last one's pictures were not picked from."""
    lines: int = 0
    """Of the file, all of which this sitting wrote."""
    changes: int = 0
    """Picks, and those taken back: rises with each."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def picks(self) -> int:
        """How many were made, and not taken back."""
        return sum(turn.picked is not None for turn in self.turns)

    @property
    def foreseen(self) -> tuple[int, int]:
        """How many picks were foreseen from those before them, and of how many that is known."""
        told = [turn.foreseen for turn in self.turns if turn.foreseen is not None]
        return sum(told), len(told)

    def check_file(self) -> None:
        """Raise `ConfigError` where the file is not what this sitting wrote.

        Whether the lines are whole is seen by the picker, which writes nothing where they are not.
        """
        file = self.picker.file
        if not self.lines:
            return
        go_on = 'put it back, or begin anew: "Four pictures"'
        try:
            found = file.read_bytes().count(b"\n")
        except FileNotFoundError:
            raise ConfigError(f'the file of your picks, "{file}", is gone; {go_on}') from None
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(
                f'the file of your picks, "{file}", cannot be read: {reason}; {go_on}'
            ) from None
        if found != self.lines:
            raise ConfigError(
                f'the file of your picks, "{file}", has {found} lines, and this page wrote '
                f"{self.lines}; {go_on}"
            )

    def learnt(self) -> Round:
        """The first pictures, but that what was learnt by now is climbed."""
        return replace(self.first, learnt=Learnt(self.picker.file, self.lines))

    def anew(self) -> Shot:
        """A picture of its own, from noise that nobody saw yet."""
        return Shot(self.seed + SHOWN * len(self.turns), climbs=True)

    def last_pick(self) -> tuple[Round, Shot, Drawn] | None:
        """The picture that was picked last, and how it came about."""
        for turn in self.turns[::-1]:
            if turn.picked is not None:
                return turn.round, turn.round.shots[turn.picked], turn.drawn[turn.picked]
        return None


class PickTab:
    """Four pictures, and what is learnt from which of them is clicked."""

    def __init__(self, desk: Desk, models: list[str], home: Path) -> None:
        self._desk = desk
        self._models = models
        self._home = home
        self._sittings: dict[str, Sitting] = {}
        """Of each open page, by Gradio's name of its session."""

    def add(self, blocks: gr.Blocks, watching: int) -> None:
        """Put it on the page.

        Args:
            blocks: the page.
            watching: how many people may look on side by side.
        """
        with gr.Row():
            prompt = gr.Textbox(
                label="Prompt",
                value="a black cat",
                elem_id="pick-prompt",
                max_length=LONGEST_PROMPT,
                scale=3,
                min_width=240,
            )
            model = gr.Dropdown(
                self._models,
                value=self._models[0],
                label="Model",
                elem_id="pick-model",
                min_width=120,
            )
            steps = self._whole("Steps", STEPS, "pick-steps", 1)
            iterations = self._whole("Iterations", ITERATIONS, "pick-iterations", 1)
            seed = self._whole("First seed", 0, "pick-seed", 0)
        with gr.Row():
            start = gr.Button("Four pictures", variant="primary", elem_id="pick-start")
            undo = gr.Button("Undo the last pick", interactive=False, elem_id="pick-undo")
            stop = gr.Button("Stop", interactive=False, elem_id="pick-stop")
        shown = gr.HTML(elem_id="board")

        outputs = [shown, start, undo, stop]
        wish = [prompt, model, steps, iterations, seed]
        asked = {
            "show_progress": "hidden",
            "api_visibility": "private",
            "concurrency_limit": watching,
        }
        # A watch may still be at what was taken back; "once" would drop clicks until its end.
        always = {**asked, "trigger_mode": "multiple"}
        start.click(self.begin, wish, outputs, **asked)
        undo.click(self.undo, None, outputs, **always)
        stop.click(self.stop, None, stop, queue=False, api_visibility="private")
        for number in range(SHOWN):
            # What a click on a picture and the keys 1 to 4 press, see pick.js.
            button = gr.Button(
                str(number + 1), elem_id=f"pick-{number + 1}", elem_classes="dno-hidden"
            )
            button.click(self.picks(number), None, outputs, **always)
        blocks.load(None, js=SCRIPT)
        blocks.unload(self.leave)

    def _whole(self, label: str, value: int, elem_id: str, least: int) -> gr.Number:
        return gr.Number(
            value, label=label, elem_id=elem_id, precision=0, minimum=least, min_width=80
        )

    def begin(
        self,
        request: gr.Request,
        prompt: str,
        model: str,
        steps: float,
        iterations: float,
        seed: float,
    ) -> Iterator[tuple[object, ...]]:
        """Show the first four, and forget what was picked before; its file stays."""
        who = str(request.session_hash)
        limits = self._desk.limits
        try:
            first = number_of("seed", seed, 0, 2**53)
            opening = Round(
                prompt_of(prompt),
                model_of(model, self._models),
                number_of("steps", steps, 1, limits.steps),
                number_of("iterations", iterations, 1, limits.iterations),
                next_shots(range(first, first + SHOWN), None),
                None,
            )
            before = self._sittings.get(who)
            if before is not None and before.turns[-1].job.view.phase is not Phase.ENDED:
                raise ConfigError("pictures are being drawn already; stop them first")
            name = f"{named_after(prompt)}-{secrets.token_hex(3)}.jsonl"
            sitting = Sitting(Picker(self._desk.runs / "picks" / name), opening, first)
            sitting.turns.append(Turn(opening, self._desk.submit(opening)))
        except ConfigError as error:
            yield from self._told(who, error)
            return
        self._sittings[who] = sitting
        yield from self._watch(sitting)

    def picks(self, number: int) -> Callable[[gr.Request], Iterator[tuple[object, ...]]]:
        """What a click on a picture does."""

        def picked(request: gr.Request) -> Iterator[tuple[object, ...]]:
            who = str(request.session_hash)
            sitting = self._sittings.get(who)
            if sitting is None:
                yield from self._told(who, ConfigError("ask for four pictures first"))
                return
            try:
                with sitting.lock:
                    # A second click on what was picked already means nothing.
                    if sitting.turns[-1].open and number < len(sitting.turns[-1].drawn):
                        self._pick(sitting, number)
            except dno.DNOError as error:
                yield from self._told(who, error)
                return
            yield from self._watch(sitting)

        return picked

    def _pick(self, sitting: Sitting, number: int) -> None:
        """Write a pick down, and ask for the next pictures.

        Raises:
            DNOError: nothing was written, since the line is full or the file is not what it was.
        """
        turn = sitting.turns[-1]
        chosen = turn.drawn[number]
        others = [one.picture for one in turn.drawn if one is not chosen]
        seen = sitting.seed + SHOWN * len(sitting.turns)
        shots = next_shots(range(seen, seen + SHOWN), chosen.folder)
        following = sitting.first

        def write() -> Round:
            nonlocal following
            sitting.check_file()
            sitting.picker.add(chosen.picture, others)
            # The first line says what the file is.
            sitting.lines += 1 if sitting.lines else 2
            following = replace(sitting.learnt(), shots=shots)
            return following

        judged = self._judged(sitting, turn)
        job = self._desk.submit_prepared(write)
        turn.foreseen = None if judged is None else is_foreseen(judged, number)
        turn.picked = number
        sitting.turns.append(Turn(following, job, _fitted(sitting.picker)))
        sitting.changes += 1

    def _judged(self, sitting: Sitting, turn: Turn) -> list[float] | None:
        """Scores of a turn's pictures, once they are all there, by the picks before them."""
        ended = turn.job.view.phase is Phase.ENDED
        if turn.scores is None and turn.model is not None and ended and len(turn.drawn) >= LEAST:
            pictures = [one.picture for one in turn.drawn]
            turn.scores = scores_of(pictures, turn.model, sitting.picker)
        return turn.scores

    def undo(self, request: gr.Request) -> Iterator[tuple[object, ...]]:
        """Take the last pick back, and show the pictures that it was one of."""
        who = str(request.session_hash)
        sitting = self._sittings.get(who)
        if sitting is None:
            yield from self._told(who, ConfigError("nothing was picked"))
            return
        try:
            with sitting.lock:
                if sitting.picks:
                    self._undo(sitting)
        except dno.DNOError as error:
            yield from self._told(who, error)
            return
        yield from self._watch(sitting)

    def _undo(self, sitting: Sitting) -> None:
        """Take the last pick back.

        Raises:
            DNOError: the file is not what it was; everything stays.
        """
        sitting.check_file()
        sitting.picker.undo()
        sitting.lines += 1
        # Before it is stopped, which wakes those that watch it.
        unseen = sitting.turns.pop()
        sitting.turns[-1].picked = None
        sitting.turns[-1].foreseen = None
        sitting.changes += 1
        self._desk.stop(unseen.job)

    def stop(self, request: gr.Request) -> object:
        """Draw no more of these pictures, and keep those that are there."""
        sitting = self._sittings.get(str(request.session_hash))
        if sitting is not None:
            self._desk.stop(sitting.turns[-1].job)
        return gr.Button(interactive=False)

    def leave(self, request: gr.Request) -> None:
        """Nobody looks any more: others get their turn."""
        sitting = self._sittings.pop(str(request.session_hash), None)
        if sitting is not None:
            self._desk.stop(sitting.turns[-1].job)

    def _watch(self, sitting: Sitting) -> Iterator[tuple[object, ...]]:
        """Show the last four as they come, until they are there.

        What else is clicked meanwhile has a watch of its own; all of them show the last four, so
        that it does not matter which of them speaks last.
        """
        while True:
            with sitting.lock:
                turn = sitting.turns[-1]
                changes = sitting.changes
                version = turn.job.version
                ended = turn.job.view.phase is Phase.ENDED
                shown = self._shown(sitting, turn)
            yield shown
            if sitting.changes != changes:
                continue
            if ended:
                return
            turn.job.wait(version, seconds=1)

    def _shown(self, sitting: Sitting, turn: Turn) -> tuple[object, ...]:
        ended = turn.job.view.phase is Phase.ENDED
        judged = self._judged(sitting, turn)
        last = sitting.last_pick()
        board = _board.board(
            turn.job.view,
            self._desk.before(turn.job),
            len(turn.round.shots),
            can_pick=turn.open,
            can_undo=bool(sitting.picks),
        )
        chance = None if judged is None else favourite(judged)
        learnt = _board.learnt(sitting.picks, sitting.foreseen, chance)
        kept = ""
        if last is not None:
            how, shot, drawn = last
            kept = _board.kept(
                sitting.picker.file,
                how.command(shot, self._home),
                drawn.folder.name,
                sitting.learnt().command(sitting.anew(), self._home),
                self._home,
                whole=drawn.whole,
                # It is long, and a picture on its way is shown at each step.
                saved=ended,
            )
        return (
            board + learnt + kept,
            gr.Button(interactive=ended),
            gr.Button(interactive=bool(sitting.picks)),
            gr.Button(interactive=not ended and not turn.job.stop_asked),
        )

    def _told(self, who: str, error: dno.DNOError) -> Iterator[tuple[object, ...]]:
        """A mistake, above what was there."""
        note = _board.note(error)
        sitting = self._sittings.get(who)
        if sitting is None:
            free = gr.Button(interactive=True)
            busy = gr.Button(interactive=False)
            yield note, free, busy, busy
            return
        with sitting.lock:
            shown, *buttons = self._shown(sitting, sitting.turns[-1])
        yield f"{note}{shown}", *buttons


def _fitted(picker: Picker) -> Model | None:
    try:
        return picker.fit()
    # Somebody took the file away since it was written; the pictures to come will tell.
    except dno.DNOError:
        return None
