"""The options of `dno optimize`: one entry each, and a help that tells the defaults of a run."""

from __future__ import annotations

import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from dno.cli.ending import CODES, finish
from dno.cli.help import option_helps
from dno.cli.main import make_app
from dno.core.result import Status
from dno.runs.run_config import RunConfig
from dno.runs.shorthands import (
    COMMAND_LINE_OBSERVERS,
    CommandLine,
    Group,
    Options,
    entries,
    known_options,
)

NO_PLACE = {
    "prompts", "prompts_file", "compare", "out", "quiet", "no_report", "config", "picture",
    "settings",
}  # fmt: skip
"""Parameters of the command that are not shorthands for a place in the configuration."""


def parameters():
    (command,) = (
        command for name, command in get_command(make_app()).commands.items() if name == "optimize"
    )
    return {parameter.name: parameter for parameter in command.params}


def helps(**given):
    return dict(option_helps({"config": None, **given}))


def test_the_commands_parameters_are_the_entries_and_the_few_without_a_place():
    assert parameters().keys() == {*entries(Options), *entries(CommandLine), *NO_PLACE}


def test_no_option_is_in_two_tables():
    assert not entries(Options).keys() & entries(CommandLine).keys()


@pytest.mark.parametrize("option", known_options(command_line=True).values(), ids=lambda o: o.name)
def test_an_option_is_spelled_as_messages_spell_it(option):
    assert parameters()[option.name].opts == [option.spelled(command_line=True)]
    assert option.spelled(command_line=False) == option.name


def test_every_option_is_one_of_the_default_plugins_or_of_the_run_or_names_one_that_has_it():
    """So none is misspelt, and none leads nowhere."""
    told = helps()
    assert told.keys() == known_options(command_line=True).keys()
    elsewhere = {name for name, text in told.items() if "not an option" in text}
    assert elsewhere == {"lr"}
    assert known_options(command_line=True)["lr"].such_as == "the optimizer adam"
    for option in known_options(command_line=True).values():
        assert option.place.partition(".")[0] in RunConfig.model_fields


@dataclass(frozen=True)
class Told:
    """How the help of an option ends, beside other options."""

    given: dict[str, object]
    option: str
    text: str


TOLD = {
    "adam's": Told({"optimizer": "adam"}, "lr", "[default: 0.01]"),
    "none of the default": Told({}, "lr", "[not an option of ascent]"),
    "sgd's": Told({"optimizer": "sgd"}, "lr", "[default: 5]"),
    "none of a search": Told({"optimizer": "best-of-n"}, "lr", "[not an option of best-of-n]"),
    "ddim's": Told({}, "steps", "[default: 50]"),
    "the pipeline's own": Told(
        {"sampler": "pipeline"}, "steps", "the pipeline's default if not given."
    ),
    "none of a pipeline": Told({"sampler": "pipeline"}, "eta", "[not an option of pipeline]"),
    "a plugin of a distribution": Told({"optimizer": "dno:sgd"}, "lr", "[default: 5]"),
    "a plugin's none": Told({}, "last_steps", "All steps if not given."),
    "of several": Told({"regularizer": ["norm", "whiteness=3"]}, "gamma", "[default: 1, 3]"),
    "of several alike": Told({"regularizer": ["norm", "whiteness"]}, "gamma", "[default: 1]"),
    "of nothing": Told({"regularizer": ["none"]}, "gamma", "at a target."),
    "the run's": Told({}, "iterations", "[default: 15]"),
    "a part's name": Told({"optimizer": "sgd"}, "optimizer", "[default: ascent]"),
    "parts' names": Told({}, "constraint", "[default: shell]"),
    "no part": Told({}, "regularizer", "or none."),
    "the first seed": Told({}, "seed", "[default: 0]"),
    "the number of seeds": Told({}, "batch", "[default: 1]"),
    "who looks on": Told({}, "observer", f"[default: {', '.join(COMMAND_LINE_OBSERVERS)}]"),
    "what climbs without a gradient": Told(
        {"reward": ["jpeg"]}, "optimizer", "[default: local-search beta=0.6]"
    ),
    "none of what climbs without a gradient": Told(
        {"reward": ["jpeg=2"]}, "lr", "[not an option of local-search]"
    ),
    "a gradient among them": Told(
        {"reward": ["jpeg", "brightness"]}, "optimizer", "[default: ascent]"
    ),
    "left out beside jpeg, whatever is chosen": Told(
        {"reward": ["jpeg"], "optimizer": "sgd"}, "optimizer", "[default: local-search beta=0.6]"
    ),
    "the paper's optimizer": Told({"paper": True}, "lr", "[default: 0.01]"),
    "the paper's own": Told({"paper": True}, "iterations", "[default: 30]"),
    "what is required": Told({}, "reward", "only reports it."),
}


@pytest.mark.parametrize("told", TOLD.values(), ids=TOLD.keys())
def test_help_tells_what_an_option_is_if_left_out(told):
    assert helps(**told.given)[told.option].endswith(told.text)


def test_help_goes_by_the_file_and_the_order_of_options_does_not_matter(dno, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        'seeds = 3\niterations = 7\nregularizers = []\n[optimizer]\nuse = "sgd"\nlr = 2.5\n'
        '[budget]\nseconds = 60\n[[rewards]]\nuse = "clip"\nweight = 2\n'
    )
    code, after, err = dno("optimize", "--config", file, "--help")
    assert (code, err) == (0, "")
    assert dno("optimize", "--help", "--config", file)[1] == after
    text = " ".join(after.split())
    for told in (
        "step size. [default: 2.5]",
        "Optimizer steps. [default: 7]",
        "time. [default: 60]",
        "only reports it. [default: clip=2]",
        "so seeded means to diffusers. [default: 3]",
    ):
        assert told in text
    # Another optimizer replaces the file's.
    other = " ".join(dno("optimize", "--config", file, "--optimizer", "adam", "--help")[1].split())
    assert "step size. [default: 0.01]" in other
    assert "search. [default: sgd]" in other


@pytest.mark.parametrize(
    "text",
    [
        "sampler = 5",
        "[sampler]\nsteps = 3",
        "seeds = []",
        "budget = 3",
        "regularizers = [5]",
        "[[rewards]]\nweight = 3",
        "observers = 3",
    ],
)
def test_help_is_there_whatever_is_wrong_with_the_file(dno, tmp_path, text):
    file = tmp_path / "run.toml"
    file.write_text(text)
    code, out, err = dno("optimize", "--config", file, "--help")
    assert (code, err) == (0, "")
    assert "--guidance-scale <float>" in out


def test_help_beside_an_unknown_plugin_says_so(dno):
    code, out, err = dno("optimize", "--optimizer", "adma", "--help")
    assert (code, out) == (2, "")
    assert err.startswith('dno: no optimizer is called "adma"; did you mean adam?')


def test_help_has_a_section_for_each_group_and_each_option_once(dno):
    code, out, _ = dno("optimize", "--help")
    assert code == 0
    headings = [line[:-1] for line in out.splitlines() if line.endswith(":") and line[0] != " "]
    assert headings == [group.value for group in Group]
    rows = [line.split()[0] for line in out.splitlines() if line.startswith("  --")]
    spelled = [name for p in parameters().values() for name in p.opts if name.startswith("--")]
    assert sorted(rows) == sorted([*spelled, "--help"])
    # One second column for all sections.
    starts = {
        len(line) - len(line[2:].partition("  ")[2].lstrip())
        for line in out.splitlines()
        if line.startswith("  --")
    }
    assert len(starts) == 1


def test_the_reference_page_is_made_from_the_tables():
    script = Path(__file__).parents[2] / "docs" / "figures" / "option_reference.py"
    page = runpy.run_path(str(script))
    assert page["PAGE"].read_text(encoding="utf-8") == page["text"](), f"run: python {script}"


def test_a_misspelt_option_names_the_near_one(dno):
    code, out, err = dno("optimize", "x", "--rewrd", "brightness")
    assert (code, out) == (2, "")
    assert "No such option: --rewrd" in err
    assert "--reward" in err.splitlines()[-1]


def test_the_command_line_imports_nothing_of_other_rooms_before_it_must():
    code = (
        "import sys, dno.cli.main\n"
        "ours = {name for name in sys.modules if name.startswith('dno.')}\n"
        # What cleans everything that is printed, which imports nothing itself.
        "strange = {name for name in ours if not name.startswith('dno.cli')} - {'dno.wording'}\n"
        "assert not strange, strange"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_tables_are_read_without_pydantic():
    """The command line reads them for every command, `dno --help` too."""
    code = (
        "import sys; from dno.runs.shorthands import known_options\n"
        "known_options(command_line=True); known_options(command_line=False)\n"
        "assert not {'pydantic', 'torch'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_of_other_plugins_imports_nothing_heavy():
    code = (
        "import sys; from dno.cli.main import main\n"
        "sys.argv = ['dno', 'optimize', '--sampler', 'pipeline', '--optimizer', 'langevin',"
        " '--regularizer', 'whiteness', '--reward', 'clip', '--help']\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'PIL', 'diffusers', 'transformers', 'safetensors'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "[not an option of langevin]" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("dno optimize --guid", ["--guidance-scale"]),
        ("dno optimize --reward brigh", ["brightness"]),
        ("dno optimize --compare best", ["best-of-n"]),
        ("dno optimize --optimizer asc", ["ascent"]),
        ("dno optimize --sampler dd", ["ddim"]),
        ("dno optimize --observer cur", ["curve"]),
        ("dno optimize --monitor jp", ["jpeg"]),
        ("dno batch --reward brigh", ["brightness"]),
        ("dno plugins ch", ["check"]),
        ("dno optimize --model emoji-", ["emoji-clip", "emoji-judge"]),
    ],
)
def test_a_shell_completes_options_and_names_of_plugins(dno, monkeypatch, words, completed):
    monkeypatch.setenv("_DNO_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    code, out, _ = dno()
    assert code == 0
    assert out.split() == completed


def test_completion_imports_nothing_heavy():
    code = (
        "import os, sys\n"
        "os.environ |= {'_DNO_COMPLETE': 'complete_bash', 'COMP_CWORD': '3',"
        " 'COMP_WORDS': 'dno optimize --reward c'}\n"
        "from dno.cli.main import main\n"
        "sys.argv = ['dno']\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'PIL', 'diffusers', 'transformers', 'tqdm', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["clip", "contrast"]


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", "complete -o default -F _dno_completion dno"),
        ("zsh", "compdef _dno_completion dno"),
        ("fish", "complete --command dno"),
    ],
)
def test_completion_can_be_shown_and_installed(dno, monkeypatch, tmp_path, shell, line):
    # What shell it is called from, a process tells that is not there in a test.
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell)
    monkeypatch.setattr("typer._completion_shared._get_shell_name", lambda: shell)
    monkeypatch.setenv("HOME", str(tmp_path))
    code, out, _ = dno("--show-completion")
    assert code == 0
    assert line in out
    code, out, _ = dno("--install-completion")
    assert code == 0
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(line in path.read_text() for path in written)


MEANT = {
    "--sampler.steps": "set it by its place: --set sampler.steps=VALUE",
    "--sampler.stpes=3": "set it by its place: --set sampler.steps=VALUE",
    "--budget.seconds": "set it by its place: --set budget.seconds=VALUE",
    "--log-p-floor": "set it by its place: --set log_p_floor=VALUE",
    "--revision": "set it by its place: --set sampler.revision=VALUE",
    "--revsion": "did you mean --set sampler.revision=VALUE?",
    "--num-inference-steps": "here it is --steps",
    "--num_images_per_prompt": "here it is --batch",
    "--itertions": "(Possible options: --iterations",
    "--rewrd": "--reward",
}


@pytest.mark.parametrize(("option", "meant"), MEANT.items(), ids=MEANT)
@pytest.mark.parametrize("command", ["optimize", "batch"])
def test_an_option_that_there_is_none_of_is_told_what_it_may_mean(dno, command, option, meant):
    code, out, err = dno(command, "x", "--out", "y", option, 3)
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith(f"Error: No such option: {option.partition('=')[0]}")
    assert meant in last


@pytest.mark.parametrize(
    ("args", "near"),
    [
        (["optmize", "x"], "'optimize'"),
        (["plugins", "lst"], "'list'"),
        (["plugins", "show", "--jsn", "clip"], "--json"),
        (["plugins", "new", "x", "--ot", "y"], "--out"),
        (["resume", "x", "--iteration", 3], "--iterations"),
        (["--versoin"], "--version"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_every_command_names_the_near_one(dno, args, near):
    code, out, err = dno(*args)
    assert (code, out) == (2, "")
    assert near in err.splitlines()[-1]


PLACES = {
    "samplr.steps": "sampler",
    "sampler.stpes": "steps",
    "rewards.0.wieght": "weight",
    "budgt.seconds": "budget",
    "budget.secnds": "seconds",
    "gradient.metod": "method",
}


@pytest.mark.parametrize(("place", "near"), PLACES.items(), ids=PLACES)
def test_a_misspelt_place_names_the_near_one(dno, place, near):
    code, _, err = dno("optimize", "x", "--reward", "brightness", "--set", f"{place}=3")
    assert code == 2
    assert f"unknown option; did you mean {near}?" in err


def test_every_status_has_an_exit_code_and_two_are_success():
    assert {status.value for status in Status} <= CODES.keys()
    assert {name for name, code in CODES.items() if code == 0} == {"finished", "stopped"}


@dataclass
class Ended:
    """As much of a result as its exit code depends on."""

    status: Status


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["finished", "stopped"], 0),
        (["partial"], 1),
        (["failed", "finished"], 1),
        (["finished", "interrupted", "failed"], 130),
    ],
)
def test_a_command_ends_with_the_worst_of_its_runs(statuses, code):
    results = [Ended(Status(status)) for status in statuses]
    if code == 0:
        finish(*results)
        return
    with pytest.raises(typer.Exit) as stop:
        finish(*results)
    assert stop.value.exit_code == code
