"""ComfyUI for the tests: the checkout or package that COMFYUI names, else the stub beside."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)

_REAL = os.environ.get("COMFYUI", "")
if _REAL:
    sys.path.insert(0, _REAL)
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
else:
    import comfy_stub

    comfy_stub.install(Path("nowhere"))


@pytest.fixture(autouse=True)
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's output folder, empty; its model folders are beside, and so is the current one."""
    import comfy.model_management
    import folder_paths

    folder = tmp_path / "output"
    here = tmp_path / "here"
    for path in (folder, here):
        path.mkdir()
    for name in ("checkpoints", "diffusers"):
        models = tmp_path / "models" / name
        models.mkdir(parents=True)
        _, endings = folder_paths.folder_names_and_paths[name]
        kept = ([str(models)], endings)
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, kept)

    monkeypatch.setattr(folder_paths, "output_directory", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(here)
    comfy.model_management.interrupt_current_processing(False)
    return folder


@pytest.fixture
def nodes() -> dict[str, Any]:
    """The nodes by their ids, as ComfyUI asks for them."""
    from dno_comfyui import comfy_entrypoint

    async def listed() -> list[type[Any]]:
        extension = await comfy_entrypoint()
        await extension.on_load()
        found: list[type[Any]] = await extension.get_node_list()
        return found

    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(listed())}


@pytest.fixture
def execute() -> Callable[..., tuple[Any, ...]]:
    """Runs a node as ComfyUI does: in another thread, under inference mode, what is not given left
    at its default.
    """

    def run(node: Any, **given: Any) -> tuple[Any, ...]:
        values = {}
        for port in node.GET_SCHEMA().inputs:
            if not port.optional:
                widget = getattr(port, "widget", None) or vars(port)
                values[port.id] = widget.get("default")
        with torch.inference_mode():
            result: tuple[Any, ...] = node.execute(**{**values, **given}).result
        return result

    def elsewhere(node: Any, **given: Any) -> tuple[Any, ...]:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return pool.submit(run, node, **given).result()

    return elsewhere
