"""The `dno` command. Every other import of ours is inside a function, so that `--help` stays quick."""

from __future__ import annotations

import os
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


def _split(text: str, option: str) -> tuple[str, str | None]:
    from dno.errors import ConfigError

    name, equals, value = text.partition("=")
    if not name.strip() or (option == "--set" and not equals):
        raise ConfigError(f"needs the form PLACE=VALUE, got {text!r}", source=option)
    return name.strip(), value if equals else None


def _reward(text: str) -> dict[str, Any]:
    from dno.errors import ConfigError

    name, weight = _split(text, "--reward")
    try:
        return {"use": name, **({} if weight is None else {"weight": float(weight)})}
    except ValueError:
        raise ConfigError(f"the weight after {name}= must be a number, got {weight!r}", source="--reward") from None


@app.command()
def optimize(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT...", help="What to draw.", show_default=False)
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=WEIGHT]", help="What to climb; repeatable. See: dno plugins list."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder, hub id or installed model. [default: emoji]", show_default=False)
    ] = None,
    regularizer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="What keeps noise Gaussian; repeatable; none for nothing. [default: permutation]"
        ),
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="How to climb. [default: adam]")] = None,
    iterations: Annotated[int | None, typer.Option(help="Optimizer steps. [default: 30]")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. [default: 50]")] = None,
    eta: Annotated[
        float | None, typer.Option(help="Noise injected at each step, 0 (ODE) to 1 (SDE). [default: 1]")
    ] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Classifier-free guidance. [default: 5]")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to guide away from.")] = None,
    lr: Annotated[float | None, typer.Option(help="The optimizer's step size. [default: 0.01]")] = None,
    gamma: Annotated[float | None, typer.Option(help="Weight of the regularizers. [default: 1]")] = None,
    seed: Annotated[int | None, typer.Option(help="First seed. [default: 0]")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Samples a prompt, from seeds SEED, SEED+1, ... [default: 1]")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. [default: auto]")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16. [default: float32]")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make. [default: runs/<time>-<prompt>]")] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with any of this and more; options go over it.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PLACE=VALUE",
            help="Any option by its place, such as sampler.memory=recompute; repeatable.",
        ),
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
    if not quiet:
        values.setdefault("observers", ["progress", "curve"])
    if not prompts and "prompts" not in values:
        raise ConfigError('say what to draw: dno optimize "a black cat" --reward brightness', source="PROMPT")
    if not reward and "rewards" not in values:
        raise ConfigError("say what to climb, such as --reward brightness; see: dno plugins list", source="--reward")
    if reward:
        values["rewards"] = [_reward(text) for text in reward]
    if regularizer:
        values["regularizers"] = [name for name in regularizer if name != "none"]
    if optimizer:
        values["optimizer"] = optimizer
    chosen: Options = {
        "prompts": prompts or None, "model": model, "iterations": iterations, "steps": steps, "eta": eta,
        "guidance_scale": guidance_scale, "negative_prompt": negative_prompt, "lr": lr, "gamma": gamma, "seed": seed,
        "batch": batch, "device": device, "dtype": dtype,
    }  # fmt: skip
    placed = [(place, parse_value(text or "")) for place, text in (_split(s, "--set") for s in settings or [])]
    run_config = assemble(values, chosen, placed, source=str(config or ""), command_line=True)

    from dno.run import run

    _finish(run(run_config, out))


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

    for info in (*(info for registry in REGISTRIES for info in registry.infos()), *unsupported()):
        note = "" if info not in unsupported() else f"  (not for this dno: {info.contract})"
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
    found = [r for r in REGISTRIES if kind in ("", r.kind, r.kind[:-1]) and any(i.name == short for i in r.infos())]
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

    try:
        app()
    except DNOError as error:
        typer.echo(f"dno: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
