"""The `dno` command. Every other import of ours is inside a function, so that `--help` stays quick."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from dno import __version__

if TYPE_CHECKING:
    from dno.request import Options
    from dno.result import Result

_QUIET: dict[str, Any] = {"rich_markup_mode": None, "add_completion": False, "pretty_exceptions_enable": False}
app = typer.Typer(
    help="Align a diffusion model at inference time by optimising its noise.", no_args_is_help=True, **_QUIET
)
plugins = typer.Typer(help="See and check what is installed.", no_args_is_help=True, **_QUIET)
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
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw.")] = None,
    reward: Annotated[list[str] | None, _option("What to climb; repeatable.", metavar="NAME[=WEIGHT]")] = None,
    model: Annotated[str | None, _option("Folder, hub id or installed model.", default="emoji")] = None,
    regularizer: Annotated[
        list[str] | None, _option("What keeps noise Gaussian; repeatable; or none.", default="permutation")
    ] = None,
    optimizer: Annotated[str | None, _option("How to climb.", default="adam")] = None,
    iterations: Annotated[int | None, _option("Optimizer steps.", default="30")] = None,
    steps: Annotated[int | None, _option("Denoising steps.", default="50")] = None,
    eta: Annotated[float | None, _option("Noise of each step, 0 (ODE) to 1 (SDE).", default="1")] = None,
    guidance_scale: Annotated[float | None, _option("Classifier-free guidance.", default="5")] = None,
    negative_prompt: Annotated[str | None, _option("What to guide away from.")] = None,
    lr: Annotated[float | None, _option("The optimizer's step size.", default="0.01")] = None,
    gamma: Annotated[float | None, _option("Weight of the regularizers.", default="1")] = None,
    seed: Annotated[int | None, _option("First seed.", default="0")] = None,
    batch: Annotated[int | None, _option("Samples a prompt, from SEED, SEED+1, ...", default="1")] = None,
    device: Annotated[str | None, _option("cpu, cuda, cuda:1 or mps.", default="auto")] = None,
    dtype: Annotated[str | None, _option("float32, bfloat16 or float16.", default="float32")] = None,
    out: Annotated[Path | None, _option("Run folder to make.", default="runs/<time>-<prompt>")] = None,
    config: Annotated[Path | None, _option("TOML file with any of this and more; options go over it.")] = None,
    settings: Annotated[
        list[str] | None, _option("Any option, as sampler.memory=recompute.", "--set", metavar="PLACE=VALUE")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Optimise the noise behind PROMPT so that the reward rises, and keep the run in a folder.

    Example: dno optimize "a black cat" --reward brightness
    """
    from dno.errors import ConfigError
    from dno.request import assemble
    from dno.run_config import parse_value, read_toml

    values = {} if config is None else read_toml(config)
    watching = values.setdefault("observers", ["progress", "curve"])
    if quiet and isinstance(watching, list):
        values["observers"] = [o for o in watching if (o.get("use") if isinstance(o, dict) else o) != "progress"]
    if not prompts and "prompts" not in values:
        raise ConfigError('say what to draw: dno optimize "a black cat" --reward brightness', source="PROMPT")
    if not reward and "rewards" not in values:
        raise ConfigError("say what to climb, such as --reward brightness; see: dno plugins list", source="--reward")
    values |= {key: value for key, value in (("prompts", prompts), ("optimizer", optimizer)) if value}
    if reward:
        pairs = [text.partition("=") for text in reward]
        values["rewards"] = [{"use": n, **({"weight": parse_value(w)} if eq else {})} for n, eq, w in pairs]
    if regularizer:
        values["regularizers"] = [name for name in regularizer if name != "none"]
    chosen: Options = {
        "model": model, "iterations": iterations, "steps": steps, "eta": eta,
        "guidance_scale": guidance_scale, "negative_prompt": negative_prompt, "lr": lr, "gamma": gamma, "seed": seed,
        "batch": batch, "device": device, "dtype": dtype,
    }  # fmt: skip
    placed = []
    for text in settings or ():
        place, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"needs the form PLACE=VALUE, got {text!r}", source="--set")
        placed.append((place.strip(), parse_value(value)))
    run_config = assemble(values, chosen, placed, source=str(config or ""), command_line=True)

    from dno.run import run
    from dno.storage import free_folder

    _finish(run(run_config, free_folder(out, run_config.prompts[0])))


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    iterations: Annotated[int | None, typer.Option(help="Go on to this many in all.")] = None,
) -> None:
    """Go on with a run that was stopped or killed, or give a finished one more iterations."""
    from dno.run import resume as go_on

    _finish(go_on(folder, iterations=iterations))


def _finish(result: Result) -> None:
    from dno.result import Status

    assert result.folder is not None
    for name in ("initial.png", "best.png", "curve.png"):
        if (result.folder / name).exists():
            typer.echo(result.folder / name)
    typer.echo(result.verdict())
    if result.status is Status.FAILED:
        _fail(f"{result.error}\nkept what was reached; to try again from there: dno resume {result.folder}", 1)
    if result.status is Status.INTERRUPTED:
        _fail(f"interrupted; to go on: dno resume {result.folder}", 130)


@plugins.command("list")
def list_plugins() -> None:
    """Every installed plugin: kind, name, distribution, version. Imports none of them."""
    from dno.registry import REGISTRIES, unsupported

    usable = [info for registry in REGISTRIES for info in registry.infos()]
    for info in (*usable, *unsupported()):
        note = "" if info in usable else f"  (not for this dno: {info.contract})"
        typer.echo(f"{info.kind:<13} {info.name:<20} {info.distribution} {info.version}{note}")


@plugins.command()
def show(
    name: Annotated[str, typer.Argument(help="NAME, or KIND/NAME.")],
    as_json: Annotated[bool, typer.Option("--json", help="The options as a JSON schema.")] = False,
) -> None:
    """A plugin's options with their types, defaults and meaning."""
    import inspect
    import json

    from dno.errors import UnknownPluginError
    from dno.registry import REGISTRIES

    kind, _, short = name.rpartition("/")
    found = [
        r
        for r in REGISTRIES
        if kind in ("", r.kind, r.kind[:-1]) and any(short in (i.name, i.qualified) for i in r.infos())
    ]
    if not found:
        names = sorted({i.name for r in REGISTRIES for i in r.infos()})
        raise UnknownPluginError(f'no plugin is called "{name}"; installed: {", ".join(names)}')
    for registry in found:
        cls, info = registry.load(short), registry.info(short)
        if as_json:
            typer.echo(json.dumps(cls.model_json_schema(), indent=2))
            continue
        typer.echo(f"{info.kind[:-1]} {info.name} ({info.distribution} {info.version})\n\n{inspect.getdoc(cls)}\n")
        for key, field in cls.model_fields.items():
            kind_of = getattr(field.annotation, "__name__", None) if isinstance(field.annotation, type) else None
            shown = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
            typer.echo(f"  {key}: {kind_of or str(field.annotation).replace('typing.', '')} = {shown}")
            typer.echo(f"      {' '.join((field.description or '').split())}")


@plugins.command()
def check() -> None:
    """Import every plugin, a row each; exit 1 if any fails."""
    from dno.errors import DNOError
    from dno.registry import REGISTRIES

    failed = False
    for registry in REGISTRIES:
        for info in registry.infos():
            try:
                registry.load(info.qualified)
                verdict = "ok"
            except DNOError as error:
                failed, verdict = True, str(error)
            typer.echo(f"{info.kind:<13} {info.name:<20} {verdict}")
    raise typer.Exit(int(failed))


def _fail(problem: str, code: int) -> NoReturn:
    typer.echo(f"dno: {problem}", err=True)
    raise typer.Exit(code)


def main() -> None:
    """Run the command line; a user's mistake ends in one sentence and exit code 2, a failed run in 1."""
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    from dno.errors import ConfigError, DNOError

    # A scheduler's request to end is Ctrl-C's: what was reached is kept.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except DNOError as error:
        typer.echo(f"dno: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
