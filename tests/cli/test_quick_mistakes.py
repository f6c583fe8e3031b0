"""What is wrong with a command is told before torch is imported, which takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

RUN = "optimize,a cat,--reward,brightness"
MISTAKES = {
    "nothing to draw": "optimize",
    "nothing to climb": "optimize,a cat",
    "no such option": f"{RUN},--nope",
    "no number": f"{RUN},--iterations,many",
    "a number below its range": f"{RUN},--iterations,-1",
    "no such reward": "optimize,a cat,--reward,nope",
    "no such regularizer": f"{RUN},--regularizer,nope",
    "no such constraint": f"{RUN},--constraint,nope",
    "no such optimizer": f"{RUN},--optimizer,nope",
    "no such sampler": f"{RUN},--sampler,nope",
    "no such observer": f"{RUN},--observer,nope",
    "no such rival": f"{RUN},--compare,nope",
    "no such search": f"{RUN},--warm-start,nope=3",
    "no such model": f"{RUN},--model,nosuchfolder",
    "a model that is a file": f"{RUN},--model,file",
    "a model that is an empty folder": f"{RUN},--model,empty",
    "no such model for a pipeline": f"{RUN},--sampler,pipeline,--model,nosuchfolder",
    "no such model of a reward": f"{RUN},--reward,clip,--set,rewards.1.model=nosuchfolder",
    "no such weights": f"{RUN},--set,sampler.loras=['nosuch.safetensors']",
    "an option of another optimizer": f"{RUN},--optimizer,best-of-n,--lr,0.1",
    "an option of nobody": f"{RUN},--set,sampler.stepz=3",
    "a value of no kind": f"{RUN},--set,sampler.memory=nope",
    "a place that leads nowhere": f"{RUN},--set,rewards.7.weight=1",
    "no such precision": f"{RUN},--dtype,float99",
    "no such start": f"{RUN},--start,nosuch.safetensors",
    "a start without noise": f"{RUN},--start,empty",
    "a start that is a broken picture": f"{RUN},--start,picture.png",
    "no such list": f"{RUN},--prompts-file,nosuch",
    "prompts beside a list": f"{RUN},--prompts-file,file",
    "nothing with a weight": "optimize,a cat,--reward,brightness=0,--regularizer,none",
    "a spread of one": f"{RUN},--set,spread=1",
    "no such file": f"{RUN},--config,nosuch.toml",
    "a file that is no TOML": f"{RUN},--config,file",
    "a folder that is in use": f"{RUN},--out,full",
    "no such run": "resume,nosuch",
    "a run that is none": "resume,empty",
    "a run of another kind": "resume,wrong",
    "fewer than none": "resume,right,--iterations,-1",
    "no such plugin": "plugins,show,nope",
    "a plugin's name": "plugins,new,Nope",
}

CODE = """
import contextlib, io, json, sys
from dno.cli import main as cli
told = {}
for name, args in json.load(sys.stdin).items():
    sys.argv = ["dno", *args.split(",")]
    said = io.StringIO()
    code = None
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
    told[name] = [code, said.getvalue(), sorted({"torch", "diffusers"} & sys.modules.keys())]
print(json.dumps(told))
"""


def test_a_mistake_is_told_without_torch(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no [ TOML")
    (tmp_path / "empty").mkdir()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    for name, text in {"full": "", "wrong": "nope = 3", "right": "prompts = ['x']"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.toml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        input=json.dumps(MISTAKES),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    wrong = {name: said for name, said in told.items() if said[0] != 2 or not said[1] or said[2]}
    assert not wrong
    assert not [name for name, said in told.items() if "Traceback" in said[1]]
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"file", "picture.png", "empty", "full", "wrong", "right"}
