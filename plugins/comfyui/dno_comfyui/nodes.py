"""The nodes, by ComfyUI's V3 interface.

ComfyUI shows an error's text on the node; those of dno are one sentence, and are passed on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from comfy_api.latest import ComfyExtension, io

from dno.plugin import ConfigError, short

from . import choices, host, loaded
from .values import Noise, comfy_images, images_of_pictures, parse_lines

_NOISE: Final = io.Custom("DNO_NOISE")
_REWARDS: Final = io.Custom("DNO_REWARDS")
_CATEGORY: Final = "dno"
_LAST_SEED: Final = 2**64 - 1


class Optimize(io.ComfyNode):  # type: ignore[misc]
    """Climb rewards over the noise of a model."""

    @classmethod
    def define_schema(cls) -> Any:
        """Inputs and outputs; the lists are what is installed when ComfyUI asks."""
        return io.Schema(
            node_id="DNOOptimize",
            display_name="dno: optimise noise",
            category=_CATEGORY,
            description="Moves the noise that a picture is drawn from so that rewards rise. The "
            "model's weights stay as they are.",
            inputs=[
                io.String.Input("prompt", multiline=True, default="a black cat"),
                io.Combo.Input("model", options=choices.models(), default="emoji"),
                io.Combo.Input("reward", options=choices.rewards(), default="brightness"),
                io.Float.Input("weight", default=1.0, min=-1e6, max=1e6, step=0.1),
                io.Int.Input(
                    "steps", default=0, min=0, max=1000, tooltip="0: the sampler's usual number."
                ),
                io.Int.Input("iterations", default=15, min=1, max=100_000),
                io.Float.Input(
                    "seconds", default=0.0, min=0.0, max=1e6, step=1.0, tooltip="0: no limit."
                ),
                io.Int.Input("seed", default=0, min=0, max=_LAST_SEED, control_after_generate=True),
                io.Int.Input("batch", default=1, min=1, max=64, tooltip="Seeds, from seed on."),
                _REWARDS.Input("rewards", optional=True, tooltip="More rewards to climb."),
                _NOISE.Input("start", optional=True, tooltip="Where to start, not at the seed."),
                io.String.Input(
                    "other_model",
                    default="",
                    optional=True,
                    tooltip="A diffusers folder, a checkpoint or a hub id; goes before model.",
                ),
                io.String.Input("negative_prompt", default="", multiline=True, optional=True),
                io.Combo.Input("optimizer", options=choices.optimizers(), optional=True),
                io.Combo.Input("sampler", options=choices.samplers(), optional=True),
                io.String.Input(
                    "settings",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Anything else, a line each, such as sampler.guidance_scale=3",
                ),
                io.String.Input(
                    "folder",
                    default="dno/run",
                    optional=True,
                    tooltip="What run folders in ComfyUI's output folder are called.",
                ),
                io.Boolean.Input(
                    "keep_loaded",
                    default=False,
                    optional=True,
                    tooltip="Whether the models stay in memory for the next run that needs them.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image"),
                io.Image.Output("before", display_name="before"),
                _NOISE.Output("noise", display_name="noise"),
                io.String.Output("verdict", display_name="verdict"),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        prompt: str | None = None,
        settings: str | None = None,
        folder: str | None = None,
    ) -> bool | str:
        """What is wrong before the workflow is queued; None stands for what comes along a wire."""
        try:
            if prompt is not None:
                _prompt(prompt)
            parse_lines(settings or "", "settings")
            if folder is not None:
                host.inside_output(folder, "folder")
        except ConfigError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        prompt: str,
        model: str,
        reward: str,
        weight: float,
        steps: int,
        iterations: int,
        seconds: float,
        seed: int,
        batch: int,
        rewards: Sequence[Mapping[str, Any]] = (),
        start: Noise | None = None,
        other_model: str = "",
        negative_prompt: str = "",
        optimizer: str = choices.USUAL,
        sampler: str = choices.USUAL,
        settings: str = "",
        folder: str = "dno/run",
        keep_loaded: bool = False,
    ) -> Any:
        """Run, and hand on the best pictures, the first ones, the best noise and the verdict.

        Raises:
            DNOError: the request is wrong, or the run failed; one sentence.
            InterruptProcessingException: it was stopped; the run's folder has what it reached.
        """
        asked = _prompt(prompt)
        models = {
            "model": other_model.strip() or host.model_path(model),
            "reward": [*_reward(reward, weight), *rewards],
            "sampler": choices.chosen(sampler),
            "steps": steps or None,
            "negative_prompt": negative_prompt.strip() or None,
            "settings": parse_lines(settings, "settings"),
        }
        out = host.new_run_folder(folder)
        watcher = host.Watcher()
        run = {
            "optimizer": choices.chosen(optimizer),
            "observer": watcher,
            "iterations": iterations,
            "seconds": seconds or None,
            "seed": seed,
            "batch": batch,
            "start": None if start is None else start.noise_BN,
            "out": out,
        }
        result = loaded.optimize(asked, models=models, run=run, keep=keep_loaded)
        watcher.raise_if_stopped()
        result.raise_for_status()

        name = out.relative_to(host.output_folder()).as_posix()
        return io.NodeOutput(
            comfy_images(result.medium, result.best.samples),
            comfy_images(result.medium, result.initial.samples),
            Noise(result.best.noise_BN.float().cpu(), _about(name, result.items)),
            result.verdict(),
        )


class Reward(io.ComfyNode):  # type: ignore[misc]
    """One more reward, with its options, in a chain."""

    @classmethod
    def define_schema(cls) -> Any:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DNOReward",
            display_name="dno: reward",
            category=_CATEGORY,
            description="A reward with a weight and options, besides those that come in.",
            inputs=[
                io.Combo.Input("reward", options=choices.rewards()),
                io.Float.Input("weight", default=1.0, min=-1e6, max=1e6, step=0.1),
                io.String.Input(
                    "options",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="A line each, such as model=openai/clip-vit-large-patch14",
                ),
                _REWARDS.Input("rewards", optional=True),
            ],
            outputs=[_REWARDS.Output("rewards", display_name="rewards")],
        )

    @classmethod
    def validate_inputs(cls, options: str | None = None) -> bool | str:
        """What is wrong before the workflow is queued."""
        try:
            parse_lines(options or "", "options")
        except ConfigError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        reward: str,
        weight: float,
        options: str = "",
        rewards: Sequence[Mapping[str, Any]] = (),
    ) -> Any:
        """Hand on those that came in, and this one after them."""
        table = parse_lines(options, "options")
        return io.NodeOutput((*rewards, *_reward(reward, weight, table)))


class OpenRun(io.ComfyNode):  # type: ignore[misc]
    """A run that is kept in ComfyUI's output folder, or what noise is from."""

    @classmethod
    def define_schema(cls) -> Any:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DNOOpenRun",
            display_name="dno: open run",
            category=_CATEGORY,
            description="What a run reached, from its folder: pictures, noise to go on from, and "
            "what it says of itself. A run that was stopped has them too.",
            inputs=[
                io.String.Input("folder", default="dno/run_00001"),
            ],
            outputs=[
                io.Image.Output("image", display_name="image"),
                io.Image.Output("before", display_name="before"),
                _NOISE.Output("noise", display_name="noise"),
                io.String.Output("about", display_name="about"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None) -> str | float:
        """What changes when the run does, so that ComfyUI reads it again."""
        # Along a wire it is not known yet; what is unequal to itself is always read.
        if folder is None:
            return math.nan
        path = host.inside_output(folder, "folder")
        files = [path / name for name in ("noise.safetensors", "result.json")]
        return repr([file.stat().st_mtime_ns for file in files if file.is_file()])

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool | str:
        """What is wrong before the workflow is queued."""
        try:
            if folder is not None:
                host.inside_output(folder, "folder")
        except ConfigError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, folder: str) -> Any:
        """Read the run.

        Raises:
            RunFolderError: there is none, it has not ended, or it is damaged.
            RunError: its samples are no pictures.
        """
        import dno
        from dno.report.facts import facts_of_saved
        from dno.report.verdict import verdict

        run = dno.open_run(host.inside_output(folder, "folder"))
        noise = Noise(run.noise(), _about(folder.strip(), run.items))
        return io.NodeOutput(
            images_of_pictures(run.pictures("best")),
            images_of_pictures(run.pictures("initial")),
            noise,
            f"{noise.about}\n\n{verdict(facts_of_saved(run))}",
        )


def _prompt(text: str) -> str:
    """The prompt, which has to say something.

    Raises:
        ConfigError: it is empty.
    """
    if not text.strip():
        raise ConfigError("is empty; say what to draw", at="prompt")
    return text.strip()


def _reward(
    name: str, weight: float, options: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """A reward as a configuration has it, in a list of its own.

    Raises:
        ConfigError: its options name what has an input of its own.
    """
    given = dict(options or {})
    for key, label in (("use", "reward"), ("weight", "weight")):
        if key in given:
            raise ConfigError(f"names {key}; that is the input {label}", at="options")
    return [{"use": name, "weight": weight, **given}]


def _about(folder: str, items: Sequence[tuple[str, int]]) -> str:
    """Where noise is from, a line a sample."""
    return "\n".join(f"{folder}: {short(prompt)}, seed {seed}" for prompt, seed in items)


class Nodes(ComfyExtension):  # type: ignore[misc]
    """All nodes of this package."""

    async def get_node_list(self) -> list[type[Any]]:
        """The node classes."""
        return [Optimize, Reward, OpenRun]
