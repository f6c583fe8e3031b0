"""The page: its tabs, and what their buttons do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import gradio as gr

import dno
from dno.plugin import (
    REGISTRIES,
    ConfigError,
    PluginConfig,
    Registry,
    about,
    options,
    write_report,
)
from dno_studio import _html
from dno_studio._asked import LONGEST_PROMPT, model_of, number_of, prompt_of
from dno_studio._desk import Desk
from dno_studio._job import Job, Phase
from dno_studio._pick import PickTab
from dno_studio._wish import Wish

STYLE = (Path(__file__).parent / "page.css").read_text("utf-8")
REWARDS = 3
"""How many rewards can be weighed against one another."""
WATCHING = 64
"""How many people may have a run, or wait for one, side by side."""


def page_of(desk: Desk, models: list[str], home: Path) -> gr.Blocks:
    """The page.

    Args:
        desk: where runs are carried out.
        models: those that people may choose from; others are refused.
        home: the folder that commands are typed in, which the page shows.
    """
    with gr.Blocks(title="dno", analytics_enabled=False) as blocks:
        gr.HTML('<h1 class="dno-title">dno</h1>')
        with gr.Tab("Optimise"):
            _Optimise(desk, models).add(blocks)
        with gr.Tab("Pick"):
            PickTab(desk, models, home).add(blocks, WATCHING)
        with gr.Tab("Runs") as runs:
            _Runs(desk.runs).add(runs)
        with gr.Tab("Plugins"):
            _Plugins().add()
    return blocks


class _Optimise:
    """A wish is written, carried out before one's eyes, and can be stopped."""

    def __init__(self, desk: Desk, models: list[str]) -> None:
        self._desk = desk
        self._models = models
        self._rewards = _offered(desk)
        self._jobs: dict[str, Job] = {}
        """The job of each open page, by Gradio's name of its session."""

    def add(self, blocks: gr.Blocks) -> None:
        """Put it on the page."""
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                prompt = gr.Textbox(
                    label="Prompt", value="a black cat", elem_id="prompt", max_length=LONGEST_PROMPT
                )
                chosen = [component for i in range(REWARDS) for component in self._reward(i)]
                model = gr.Dropdown(
                    self._models, value=self._models[0], label="Model", elem_id="model"
                )
                with gr.Row():
                    steps = _whole("Steps", 20, "steps", 1)
                    iterations = _whole("Iterations", 15, "iterations", 1)
                    seed = _whole("Seed", 0, "seed", 0)
                with gr.Row():
                    start = gr.Button("Optimise", variant="primary", elem_id="start")
                    stop = gr.Button("Stop", interactive=False, elem_id="stop")
            with gr.Column(scale=3, min_width=280):
                shown = gr.HTML(elem_id="progress")
        wish = [prompt, model, steps, iterations, seed, *chosen]
        start.click(
            self.run,
            wish,
            [shown, start, stop],
            show_progress="hidden",
            concurrency_limit=WATCHING,
            api_visibility="private",
        )
        stop.click(self.stop, None, stop, queue=False, api_visibility="private")
        blocks.unload(self.leave)

    def _reward(self, number: int) -> tuple[gr.Dropdown, gr.Number]:
        first = number == 0
        with gr.Row():
            # Without a choice in all but the first.
            choices = self._rewards if first else ["", *self._rewards]
            name = gr.Dropdown(
                choices,
                value="brightness" if first else "",
                label="Reward" if first else "and",
                elem_id=f"reward-{number}",
                min_width=140,
            )
            weight = gr.Number(1, label="Weight", elem_id=f"weight-{number}", min_width=80)
        return name, weight

    def run(
        self,
        request: gr.Request,
        prompt: str,
        model: str,
        steps: float,
        iterations: float,
        seed: float,
        *chosen: object,
    ) -> Iterator[tuple[object, object, object]]:
        """Carry out what somebody wishes, and show it as it goes."""
        who = str(request.session_hash)
        before = self._jobs.get(who)
        busy = gr.Button(interactive=False)
        free = gr.Button(interactive=True)
        try:
            if before is not None and before.view.phase is not Phase.ENDED:
                raise ConfigError("this page has a run already; stop it first")
            wish = self._wish(prompt, model, steps, iterations, seed, chosen)
            job = self._desk.submit(wish)
        except ConfigError as error:
            yield _html.note(error), free, busy
            return

        self._jobs[who] = job
        while True:
            version = job.version
            view = job.view
            ended = view.phase is Phase.ENDED
            shown = _html.progress(view, self._desk.before(job))
            yield shown, free if ended else busy, busy if ended or job.stop_asked else free
            if ended:
                return
            # Somebody further up in the line may have ended, which changes nothing of this job.
            job.wait(version, seconds=1)

    def stop(self, request: gr.Request) -> object:
        """Ask this page's run to end, and keep what it reached."""
        job = self._jobs.get(str(request.session_hash))
        if job is not None:
            self._desk.stop(job)
        return gr.Button(interactive=False)

    def leave(self, request: gr.Request) -> None:
        """Nobody looks any more: others get their turn."""
        job = self._jobs.pop(str(request.session_hash), None)
        if job is not None:
            self._desk.stop(job)

    def _wish(
        self,
        prompt: str,
        model: str,
        steps: float,
        iterations: float,
        seed: float,
        chosen: tuple[object, ...],
    ) -> Wish:
        """What was written, if it can be carried out.

        Raises:
            ConfigError: it cannot.
        """
        prompt_of(prompt)
        model_of(model, self._models)
        rewards: list[tuple[str, float]] = []
        for name, weight in zip(chosen[::2], chosen[1::2], strict=True):
            if not name:
                continue
            if name not in self._rewards:
                raise ConfigError("choose one of the list", at="reward")
            if not isinstance(weight, int | float) or not math.isfinite(weight):
                raise ConfigError("give each reward a number", at="weight")
            if name in [other for other, _ in rewards]:
                raise ConfigError(f"{name} is chosen twice", at="reward")
            rewards.append((str(name), float(weight)))
        if not rewards:
            raise ConfigError("choose one", at="reward")
        limits = self._desk.limits
        whole = {
            "steps": number_of("steps", steps, 1, limits.steps),
            "iterations": number_of("iterations", iterations, 1, limits.iterations),
            "seed": number_of("seed", seed, 0, 2**53),
        }
        return Wish(prompt, tuple(rewards), model, **whole)


def _whole(label: str, value: int, elem_id: str, least: int) -> gr.Number:
    return gr.Number(value, label=label, elem_id=elem_id, precision=0, minimum=least, min_width=80)


class _Runs:
    """The runs of the folder, and the report of one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, tab: gr.Tab) -> None:
        """Put it on the page."""
        with gr.Row():
            # What is chosen is looked up in the folder again: the list may be older than it.
            choice = gr.Dropdown(
                [], label="Run", elem_id="run", scale=4, allow_custom_value=True, value=None
            )
            again = gr.Button("Look again", elem_id="again", scale=1)
        shown = gr.HTML(elem_id="report")
        for asked in (tab.select, again.click):
            asked(self.choices, None, choice, show_progress="hidden", api_visibility="private")
        choice.change(self.report, choice, shown, show_progress="hidden", api_visibility="private")

    def choices(self) -> object:
        """The list of runs, the latest first."""
        return gr.Dropdown([(self._label(run), run.path.name) for run in self._runs()])

    def _runs(self) -> list[dno.SavedRun]:
        if not self._folder.is_dir():
            return []
        return dno.list_runs(self._folder)[::-1]

    def _label(self, run: dno.SavedRun) -> str:
        try:
            return f"{run.path.name}: {run.items[0][0][:60]} ({run.status or 'not ended'})"
        except dno.DNOError:
            return f"{run.path.name} (damaged)"

    def report(self, name: str | None) -> str:
        """The report of a run of this folder; of anything else, that there is no such run."""
        if not name:
            return ""
        # By comparison with what is there, so that no name leads anywhere else.
        found = [run for run in self._runs() if run.path.name == name]
        if not found:
            return _html.note("There is no such run in the folder.")
        file = found[0].path / "report.html"
        try:
            if not file.exists() or found[0].status is None:
                file = write_report(found[0].path)
            if file.is_symlink():
                return _html.note("Its report leads elsewhere, and is not shown.")
            return _html.frame(file.read_text("utf-8"))
        except (dno.DNOError, OSError, UnicodeError) as error:
            return _html.note(f"It cannot be shown: {error}")


class _Plugins:
    """What is installed, and its options."""

    def add(self) -> None:
        """Put it on the page."""
        names = [
            f"{registry.one} {info.qualified if _is_shared(info.name, registry) else info.name}"
            for registry in REGISTRIES
            for info in registry.infos()
        ]
        choice = gr.Dropdown(names, value=None, label="Plugin", elem_id="plugin")
        shown = gr.HTML(elem_id="options")
        choice.change(self.show, choice, shown, show_progress="hidden", api_visibility="private")

    def show(self, title: str | None) -> str:
        """A plugin with its options."""
        one, _, name = (title or "").partition(" ")
        for registry in REGISTRIES:
            if registry.one != one:
                continue
            try:
                cls = registry.load(name)
                info = registry.info(name)
            except dno.DNOError as error:
                return _html.note(error)
            origin = f"{info.distribution} {info.version}"
            return _html.plugin(f"{one} {name}", origin, about(cls), options(cls))
        return ""


def _offered(desk: Desk) -> list[str]:
    """Names of the rewards that people may choose from."""
    installed = [info.name for info in _registry("rewards").infos()]
    wanted = desk.limits.rewards
    return installed if wanted is None else [name for name in installed if name in wanted]


def _registry(kind: str) -> Registry[PluginConfig]:
    (found,) = [registry for registry in REGISTRIES if registry.kind == kind]
    return found


def _is_shared(name: str, registry: Registry[PluginConfig]) -> bool:
    return [info.name for info in registry.infos()].count(name) > 1
