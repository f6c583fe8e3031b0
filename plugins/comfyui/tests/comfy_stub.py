"""As much of ComfyUI as the nodes meet, by its names and rules, where there is no ComfyUI.

Written from its sources of autumn 2026: `comfy_api.latest` (V3 nodes), `comfy.utils`,
`comfy.model_management`, `folder_paths`. What ComfyUI has besides is not here, so that a node that
uses more of it fails.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


class InterruptProcessingException(BaseException):
    """What ends a workflow whose user pressed stop."""


class Port:
    """An input or an output."""

    io_type = ""

    def __init__(
        self,
        id: str | None = None,
        *,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        **widget: Any,
    ) -> None:
        strange = set(widget) - WIDGETS.get(self.io_type, set())
        if strange:
            raise TypeError(f"{self.io_type} takes no {', '.join(strange)}")
        self.id = id
        self.display_name = display_name
        self.optional = optional
        self.tooltip = tooltip
        self.widget = widget


NUMBER = {"default", "min", "max", "step", "display_mode"}
WIDGETS = {
    "STRING": {"default", "multiline", "placeholder", "dynamic_prompts"},
    "INT": NUMBER | {"control_after_generate"},
    "FLOAT": NUMBER | {"round"},
    "BOOLEAN": {"default", "label_on", "label_off"},
    "COMBO": {"default", "options"},
}


def kind(io_type: str) -> Any:
    """A type of wires, with its `Input` and `Output`."""
    made = {
        side: type(side, (Port,), {"io_type": io_type if side == "Input" else f"{io_type} out"})
        for side in ("Input", "Output")
    }
    return SimpleNamespace(io_type=io_type, **made)


@dataclasses.dataclass
class Schema:
    """What a node says of itself."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Any] = dataclasses.field(default_factory=list)
    outputs: list[Any] = dataclasses.field(default_factory=list)
    description: str = ""
    is_output_node: bool = False

    def validate(self) -> None:
        for ports in (self.inputs, self.outputs):
            names = [port.id for port in ports]
            if len(set(names)) < len(names):
                raise ValueError(f"ids must be unique: {names}")


class NodeOutput:
    """What `execute` returns."""

    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args = args
        self.ui = ui

    @property
    def result(self) -> tuple[Any, ...]:
        return self.args


class ComfyNode:
    """Base of nodes; ComfyUI makes no instances."""

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        schema: Schema = cls.define_schema()  # type: ignore[attr-defined]
        schema.validate()
        return schema


class ComfyExtension:
    """Base of what a folder of nodes hands over."""

    async def on_load(self) -> None:
        pass


class ProgressBar:
    """The bar on a node."""

    def __init__(self, total: int, node_id: str | None = None) -> None:
        self.total = total
        self.node_id = node_id
        self.hook = sys.modules["comfy.utils"].PROGRESS_BAR_HOOK  # type: ignore[attr-defined]

    def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
        if total is not None:
            self.total = total
        if self.hook is not None:
            self.hook(min(value, self.total), self.total, preview, node_id=self.node_id)


def install(root: Path) -> None:
    """Put the modules where imports find them; ComfyUI's folders are below `root`."""
    modules: dict[str, Any] = {
        name: ModuleType(name)
        for name in (
            "comfy", "comfy.utils", "comfy.model_management", "comfy_api", "comfy_api.latest",
            "folder_paths",
        )
    }  # fmt: skip
    types = {
        name: kind(name.upper()) for name in ("Image", "String", "Int", "Float", "Combo", "Boolean")
    }
    api = modules["comfy_api.latest"]
    api.io = SimpleNamespace(
        ComfyNode=ComfyNode, Schema=Schema, NodeOutput=NodeOutput, Custom=kind, **types
    )
    api.ComfyExtension = ComfyExtension
    modules["comfy"].utils = modules["comfy.utils"]
    modules["comfy"].model_management = modules["comfy.model_management"]
    modules["comfy_api"].latest = api
    _fill_utils(modules["comfy.utils"])
    _fill_management(modules["comfy.model_management"])
    _fill_folders(modules["folder_paths"], root)
    sys.modules.update(modules)


def _fill_utils(utils: Any) -> None:
    def set_hook(function: Callable[..., Any] | None) -> None:
        utils.PROGRESS_BAR_HOOK = function

    utils.PROGRESS_BAR_HOOK = None
    utils.set_progress_bar_global_hook = set_hook
    utils.ProgressBar = ProgressBar


def _fill_management(management: Any) -> None:
    asked = threading.Event()

    def interrupt_current_processing(value: bool = True) -> None:
        if value:
            asked.set()
        else:
            asked.clear()

    def throw_exception_if_processing_interrupted() -> None:
        if asked.is_set():
            asked.clear()
            raise InterruptProcessingException

    management.InterruptProcessingException = InterruptProcessingException
    management.interrupt_current_processing = interrupt_current_processing
    management.processing_interrupted = asked.is_set
    management.throw_exception_if_processing_interrupted = throw_exception_if_processing_interrupted
    management.unload_all_models = lambda: None
    management.soft_empty_cache = lambda force=False: None


def _fill_folders(paths: Any, root: Path) -> None:
    paths.output_directory = str(root / "output")
    paths.folder_names_and_paths = {
        name: ([str(root / "models" / name)], set()) for name in ("checkpoints", "diffusers")
    }

    def set_output_directory(folder: str) -> None:
        paths.output_directory = folder

    def get_filename_list(name: str) -> list[str]:
        found = []
        for folder in get_folder_paths(name):
            for path, _, files in os.walk(folder, followlinks=True):
                found += [os.path.relpath(os.path.join(path, file), folder) for file in files]  # noqa: PTH118
        return sorted(found)

    def get_full_path(name: str, file: str) -> str | None:
        for folder in get_folder_paths(name):
            if (Path(folder) / file).is_file():
                return str(Path(folder) / file)
        return None

    def get_folder_paths(name: str) -> list[str]:
        return list(paths.folder_names_and_paths[name][0])

    paths.set_output_directory = set_output_directory
    paths.get_output_directory = lambda: paths.output_directory
    paths.get_filename_list = get_filename_list
    paths.get_full_path = get_full_path
    paths.get_folder_paths = get_folder_paths
