"""The `dno` command. Every other import of ours is inside a function, so that `--help` stays
quick.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from dno import __version__
from dno.cli.plugins import list_plugins, plugins

if TYPE_CHECKING:
    from dno.report.result import Result
    from dno.runs.shorthands import CommandLine

_LIBRARIES = ("torch", "diffusers", "transformers", "pluggy", "pydantic", "importlib")
_QUIET: dict[str, Any] = {
    "rich_markup_mode": None,
    "add_completion": False,
    "pretty_exceptions_enable": False,
}
app = typer.Typer(
    help="Align a diffusion model at inference time by optimising its noise.",
    no_args_is_help=True,
    **_QUIET,
)
app.add_typer(plugins, name="plugins")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"dno {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit.")
    ] = False,
) -> None: ...


def _option(meaning: str, *names: str, default: str = "", metavar: str | None = None) -> Any:
    shown = f"{meaning} [default: {default}]" if default else meaning
    return typer.Option(*names, help=shown, metavar=metavar, show_default=False)


@app.command()
def optimize(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw.")
    ] = None,
    reward: Annotated[
        list[str] | None, _option("What to climb; repeatable.", metavar="NAME[=WEIGHT]")
    ] = None,
    monitor: Annotated[
        list[str] | None, _option("Reward to report and never climb; repeatable.")
    ] = None,
    model: Annotated[
        str | None, _option("Folder, hub id or installed model.", default="emoji")
    ] = None,
    sampler: Annotated[str | None, _option("How noise becomes an image.", default="ddim")] = None,
    regularizer: Annotated[
        list[str] | None,
        _option(
            "What keeps noise Gaussian; repeatable; or none.",
            default="permutation",
            metavar="NAME[=WEIGHT]",
        ),
    ] = None,
    optimizer: Annotated[str | None, _option("How to climb.", default="adam")] = None,
    observer: Annotated[
        list[str] | None, _option("What looks on, beside progress and curve; repeatable.")
    ] = None,
    iterations: Annotated[int | None, _option("Optimizer steps.", default="30")] = None,
    seconds: Annotated[float | None, _option("Stop after this much time.")] = None,
    target: Annotated[float | None, _option("Stop when the weighted rewards reach this.")] = None,
    start: Annotated[
        str | None, _option("Run folder or noise file to start from.", default="SEED's noise")
    ] = None,
    warm_start: Annotated[
        str | None, _option("Search that comes first, such as best-of-8.")
    ] = None,
    compare: Annotated[
        str | None, _option("Optimizer to spend the same seconds on afterwards.")
    ] = None,
    steps: Annotated[int | None, _option("Denoising steps.", default="50")] = None,
    last_steps: Annotated[
        int | None, _option("Move the noise of this many last steps alone.", default="all")
    ] = None,
    eta: Annotated[
        float | None, _option("Noise of each step, 0 (ODE) to 1 (SDE).", default="1")
    ] = None,
    guidance_scale: Annotated[
        float | None, _option("Classifier-free guidance.", default="5")
    ] = None,
    negative_prompt: Annotated[str | None, _option("What to guide away from.")] = None,
    lr: Annotated[float | None, _option("The optimizer's step size.", default="0.01")] = None,
    gamma: Annotated[
        str | None, _option("Weight of the regularizers, or auto.", default="1")
    ] = None,
    seed: Annotated[int | None, _option("First seed.", default="0")] = None,
    batch: Annotated[
        int | None, _option("Samples a prompt, from SEED, SEED+1, ...", default="1")
    ] = None,
    device: Annotated[str | None, _option("cpu, cuda, cuda:1 or mps.", default="auto")] = None,
    dtype: Annotated[
        str | None, _option("float32, bfloat16 or float16.", default="float32")
    ] = None,
    out: Annotated[
        Path | None, _option("Run folder to make.", default="runs/<time>-<prompt>")
    ] = None,
    config: Annotated[
        Path | None, _option("TOML file with any of this and more; options go over it.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        _option("Any option, as sampler.memory=recompute.", "--set", metavar="PLACE=VALUE"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Optimise the noise behind PROMPT so that the reward rises, and keep the run in a folder.

    Example: dno optimize "a black cat" --reward brightness
    """
    from dno.errors import ConfigError
    from dno.runs.folders import default_folder
    from dno.runs.run_config import read_toml
    from dno.runs.shorthands import assemble, parse_value

    values = {} if config is None else read_toml(config)
    watching = values.setdefault("observers", ["progress", "curve"])
    if isinstance(watching, list):
        kept = [
            o
            for o in watching
            if not quiet or (o.get("use") if isinstance(o, dict) else o) != "progress"
        ]
        values["observers"] = [*kept, *(observer or ())]
    if not prompts and "prompts" not in values:
        raise ConfigError(
            'say what to draw: dno optimize "a black cat" --reward brightness', source="PROMPT"
        )
    if not reward and "rewards" not in values:
        raise ConfigError(
            "say what to climb, such as --reward brightness; see: dno plugins list",
            source="--reward",
        )
    values |= {
        key: value for key, value in (("prompts", prompts), ("optimizer", optimizer)) if value
    }
    if reward:
        values["rewards"] = [_weighted(text) for text in reward]
    if monitor:
        values["monitors"] = [{"use": name} for name in monitor]
    if regularizer:
        values["regularizers"] = [_weighted(text) for text in regularizer if text != "none"]
    chosen: CommandLine = {
        "model": model, "sampler": sampler, "iterations": iterations, "seconds": seconds, "target": target,
        "start": start, "warm_start": warm_start, "steps": steps, "last_steps": last_steps, "eta": eta,
        "guidance_scale": guidance_scale, "negative_prompt": negative_prompt, "lr": lr,
        "gamma": None if gamma is None else parse_value(gamma), "seed": seed, "batch": batch, "device": device,
        "dtype": dtype,
    }  # fmt: skip
    run_config = assemble(
        values, chosen, _placed(settings), source=str(config or ""), command_line=True
    )

    from dno.api import compare as compare_runs
    from dno.api import run
    from dno.runs.storage import free_folder

    folder = free_folder(out or default_folder(run_config.prompts[0]))
    if compare is None:
        _finish(run(run_config, folder))
        return
    both = compare_runs(run_config, compare, folder)
    _finish(both.ours)
    typer.echo(f"\n{both.against} in the same {both.ours.meter()['seconds']:.0f} s:")
    _finish(both.rival)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    iterations: Annotated[int | None, typer.Option(help="Go on to this many in all.")] = None,
    settings: Annotated[
        list[str] | None,
        _option("What else may change, as budget.seconds=60.", "--set", metavar="PLACE=VALUE"),
    ] = None,
) -> None:
    """Go on with a run that was stopped or killed, or give a finished one more iterations."""
    from dno.api import resume as go_on

    _finish(go_on(folder, iterations=iterations, settings=dict(_placed(settings))))


def _weighted(text: str) -> dict[str, Any]:
    """`NAME` or `NAME=WEIGHT` as a table."""
    from dno.runs.shorthands import parse_value

    name, equals, weight = text.partition("=")
    return {"use": name, "weight": parse_value(weight)} if equals else {"use": name}


def _placed(settings: list[str] | None) -> list[tuple[str, Any]]:
    """`PLACE=VALUE` texts as places and values."""
    from dno.errors import ConfigError
    from dno.runs.shorthands import parse_value

    placed = []
    for text in settings or ():
        place, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"needs the form PLACE=VALUE, got {text!r}", source="--set")
        placed.append((place.strip(), parse_value(value)))
    return placed


def _finish(result: Result) -> None:
    from dno.core.result import Status

    assert result.folder is not None
    for name in ("initial.png", "best.png", "curve.png"):
        if (result.folder / name).exists():
            typer.echo(result.folder / name)
    typer.echo(result.verdict())
    if result.status is Status.FAILED:
        assert result.error is not None
        _fail(
            f"{_told(result.error)}\nkept what was reached; to try again from there: dno resume "
            f"{result.folder}",
            1,
        )
    if result.status is Status.INTERRUPTED:
        _fail(f"interrupted; to go on: dno resume {result.folder}", 130)


def _told(error: BaseException) -> str:
    """The error's sentence, and where in a plugin's code it came from if that raised something
    unforeseen.
    """
    import traceback

    cause = error.__cause__
    if cause is None or type(cause).__name__ not in str(error):
        return str(error)
    libraries = (
        str(Path(__file__).parents[1]),
        "<frozen",
        *(f"{os.sep}{name}{os.sep}" for name in _LIBRARIES),
    )
    frames = [
        f
        for f in traceback.extract_tb(cause.__traceback__)
        if not any(lib in f.filename for lib in libraries)
    ]
    return f"{error} (at {frames[-1].filename}:{frames[-1].lineno})" if frames else str(error)


def _fail(problem: str, code: int) -> NoReturn:
    typer.echo(f"dno: {problem}", err=True)
    raise typer.Exit(code)


def main() -> None:
    """Run the command line; a user's mistake ends in one sentence and exit code 2, a failed run in
    1.
    """
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    from dno.errors import ConfigError, DNOError

    # A scheduler's request to end is Ctrl-C's: what was reached is kept.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if sys.argv[1:] == ["plugins", "list"]:
            # Typer would import pydantic for the parameters of commands, and this one has none.
            list_plugins()
            sys.exit()
        app()
    except DNOError as error:
        typer.echo(f"dno: {_told(error)}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
