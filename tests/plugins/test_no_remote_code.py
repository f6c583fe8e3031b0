"""No code that comes with a model is run, and nobody is asked whether to run it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
from dno_builtin.rewards.clip import Clip
from files_of_models import cache

from dno.errors import ConfigError
from dno.plugin import BuildContext

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONTEXT = BuildContext(device=torch.device("cpu"), dtype=torch.float32)
LOADERS = [
    *(ROOT / "plugins" / "builtin" / "dno_builtin" / "rewards").glob("*.py"),
    *(ROOT / "plugins" / "vlm-judge" / "dno_vlm_judge").glob("*.py"),
    ROOT / "plugins" / "builtin" / "dno_builtin" / "samplers" / "_diffusers" / "load.py",
]
"""Files that load what transformers' automatic classes or a pipeline's index choose."""


def loads(file: Path) -> list[ast.Call]:
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr in ("from_pretrained", "download"):
            found.append(node)
    return found


def test_every_load_forbids_the_code_of_a_model() -> None:
    seen = 0
    for file in LOADERS:
        for call in loads(file):
            seen += 1
            given = {word.arg: word.value for word in call.keywords}
            value = given.get("trust_remote_code")
            assert isinstance(value, ast.Constant), f"{file}:{call.lineno}"
            assert value.value is False, f"{file}:{call.lineno}"
    assert seen > 8


@pytest.mark.parametrize("kind", ["clip", "of-its-own"])
def test_a_model_with_code_of_its_own_runs_none_and_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "model").mkdir()
    auto = {
        "AutoConfig": "code.Config",
        "AutoModel": "code.Model",
        "AutoTokenizer": ["code.T", None],
        "AutoProcessor": "code.Processor",
    }
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        (tmp_path / "model" / name).write_text(json.dumps({"model_type": kind, "auto_map": auto}))
    (tmp_path / "model" / "code.py").write_text("raise SystemExit('ran')")
    cache(tmp_path / "model", tmp_path / "hub", "someone/clip")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for place in ("huggingface_hub.file_download", "transformers.utils.hub"):
        with_cache = pytest.importorskip(place)
        for name in ("HF_HUB_CACHE", "TRANSFORMERS_CACHE"):
            if hasattr(with_cache, name):
                monkeypatch.setattr(with_cache, name, str(tmp_path / "hub"))

    asked: list[object] = []
    monkeypatch.setattr("builtins.input", lambda *said: asked.append(said) or "n")
    with pytest.raises(ConfigError) as caught:
        Clip(model="someone/clip").build(CONTEXT)
    assert not asked
    # What it ends with: the class is unknown, or else the weights are not here.
    assert ("model.safetensors" in str(caught.value)) == (kind == "clip")
    assert "trust_remote_code" not in str(caught.value)
