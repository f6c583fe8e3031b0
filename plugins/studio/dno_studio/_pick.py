"""The tab Pick: of four pictures the one that is liked is clicked, and the next four are better."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import gradio as gr
from dno_builtin.rewards.picks import Picker

import dno
from dno.plugin import ConfigError
from dno_studio import _board
from dno_studio._asked import LONGEST_PROMPT, model_of, number_of, prompt_of
from dno_studio._desk import Desk
from dno_studio._job import Drawn, Job, Phase
from dno_studio._round import SHOWN, Learnt, Round, Shot, next_shots
from dno_studio._workshop import named_after

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
    picked: int | None = None
    favourite: float | None = None
    """How likely the model held its favourite to be picked, once that is known."""

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
    foreseen: tuple[int, int] = (0, 0)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def picks(self) -> int:
        """How many were made, and not taken back."""
        return sum(turn.picked is not None for turn in self.turns)

    def learnt(self) -> Round:
        """The first pictures, but that what was learnt by now is climbed."""
        saved = self.picker.saved()
        assert saved is not None
        return replace(self.first, learnt=Learnt(self.picker.file, saved.lines))

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
        asked = {"show_progress": "hidden", "api_visibility": "private"}
        start.click(self.begin, wish, outputs, concurrency_limit=watching, **asked)
        undo.click(self.undo, None, outputs, concurrency_limit=watching, **asked)
        stop.click(self.stop, None, stop, queue=False, api_visibility="private")
        for number in range(SHOWN):
            # What a click on a picture and the keys 1 to 4 press, see pick.js.
            button = gr.Button(
                str(number + 1), elem_id=f"pick-{number + 1}", elem_classes="dno-hidden"
            )
            button.click(self.picks(number), None, outputs, concurrency_limit=watching, **asked)
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
        """Write a pick down, and ask for the next pictures."""
        turn = sitting.turns[-1]
        chosen = turn.drawn[number]
        others = [one.picture for one in turn.drawn if one is not chosen]
        sitting.picker.add(chosen.picture, others)
        turn.picked = number
        sitting.foreseen = sitting.picker.foreseen()
        seen = sitting.seed + SHOWN * len(sitting.turns)
        shots = next_shots(range(seen, seen + SHOWN), chosen.folder)
        following = replace(sitting.learnt(), shots=shots)
        sitting.turns.append(Turn(following, self._desk.submit(following)))

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
                    if sitting.turns[-1].picked is None:
                        self._desk.stop(sitting.turns.pop().job)
                    sitting.picker.undo()
                    sitting.turns[-1].picked = None
                    sitting.foreseen = sitting.picker.foreseen()
        except dno.DNOError as error:
            yield from self._told(who, error)
            return
        yield from self._watch(sitting)

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
            turn = sitting.turns[-1]
            version = turn.job.version
            ended = turn.job.view.phase is Phase.ENDED
            if ended and turn.favourite is None and sitting.picks and len(turn.drawn) >= LEAST:
                chances = sitting.picker.chances([one.picture for one in turn.drawn])
                turn.favourite = max(chances) if chances else None
            yield self._shown(sitting, turn)
            if ended and sitting.turns[-1] is turn:
                return
            turn.job.wait(version, seconds=1)

    def _shown(self, sitting: Sitting, turn: Turn) -> tuple[object, ...]:
        ended = turn.job.view.phase is Phase.ENDED
        last = sitting.last_pick()
        board = _board.board(
            turn.job.view,
            self._desk.before(turn.job),
            len(turn.round.shots),
            can_pick=turn.open,
        )
        learnt = _board.learnt(sitting.picks, sitting.foreseen, turn.favourite)
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
        shown, *buttons = self._shown(sitting, sitting.turns[-1])
        yield f"{note}{shown}", *buttons
