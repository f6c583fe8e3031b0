"""What the nodes ask of ComfyUI: its folders, its progress bar, its stop button, its memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import comfy.model_management
import comfy.utils
import folder_paths

from dno.plugin import ConfigError, RunStarted, StepDone, hookimpl, short, thumbnails

CHECKPOINTS: Final = "checkpoints"
DIFFUSERS: Final = "diffusers"
_PREVIEW: Final = 512
"""Longest side of the pictures beside the progress bar, in pixels."""
_NAME: Final = re.compile(r"[^/\\:\x00-\x1f]+(/[^/\\:\x00-\x1f]+)*")


def output_folder() -> Path:
    """ComfyUI's output folder."""
    return Path(folder_paths.get_output_directory()).absolute()


def new_run_folder(name: str) -> Path:
    """The next of `NAME_00001`, `NAME_00002`, ... in the output folder, not made yet.

    Raises:
        ConfigError: the name leads out of the output folder.
    """
    first = inside_output(name, at="folder")
    taken = [0]
    if first.parent.is_dir():
        for path in first.parent.iterdir():
            number = path.name.removeprefix(f"{first.name}_")
            if number != path.name and number.isdecimal():
                taken.append(int(number))
    return first.with_name(f"{first.name}_{max(taken) + 1:05}")


def inside_output(name: str, at: str) -> Path:
    """A path in ComfyUI's output folder, by its name there, such as `dno/run_00001`.

    Raises:
        ConfigError: the name is of another form, or leads out of the folder, by a link too.
    """
    told = str(name).strip()
    root = output_folder()
    path = root / told
    parts = told.split("/")
    is_plain = _NAME.fullmatch(told) is not None and not {".", ".."} & set(parts)
    if not is_plain or not path.resolve().is_relative_to(root.resolve()):
        raise ConfigError(
            f"needs a name inside ComfyUI's output folder, such as dno/run, got {short(name)}",
            at=at,
        )
    return path


def models_of_comfyui() -> Iterator[str]:
    """Checkpoints in one safetensors file, and diffusers folders, in ComfyUI's model folders.

    As `checkpoints/NAME` and `diffusers/NAME`, which `model_path` reads.
    """
    for name in folder_paths.get_filename_list(CHECKPOINTS):
        if name.endswith(".safetensors"):
            yield f"{CHECKPOINTS}/{name}"

    for folder in folder_paths.get_folder_paths(DIFFUSERS):
        for path, below, files in os.walk(folder, followlinks=True):
            if "model_index.json" in files:
                # What is inside a model is its parts.
                below.clear()
                yield f"{DIFFUSERS}/{Path(path).relative_to(folder).as_posix()}"


def model_path(name: str) -> str:
    """What to call a model for dno: the path of one in ComfyUI's folders, else the name itself."""
    kind, _, inner = name.partition("/")
    if kind == CHECKPOINTS and inner in folder_paths.get_filename_list(CHECKPOINTS):
        found = folder_paths.get_full_path(CHECKPOINTS, inner)
        if found is not None:
            return str(found)
    if kind == DIFFUSERS:
        for folder in folder_paths.get_folder_paths(DIFFUSERS):
            if (Path(folder) / inner / "model_index.json").is_file():
                return str(Path(folder) / inner)
    return name


def make_room() -> None:
    """Ask ComfyUI to take its own models off the device, as it does for its own large nodes."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


class Watcher:
    """An observer that moves ComfyUI's progress bar, and asks to stop where its user did.

    ComfyUI's bar raises where somebody has pressed stop, and takes that as told: it would be an
    error of an observer, and nobody would know of the stop. So it is caught here, and raised when
    the run has ended and is saved.
    """

    def __init__(self) -> None:
        self._bar = comfy.utils.ProgressBar(1)
        self._stopped = False

    @hookimpl
    def run_started(self, event: RunStarted) -> None:
        """The bar has as many parts as the run has iterations."""
        self._show(event.run.start, event.run.iterations)

    @hookimpl
    def step_done(self, event: StepDone) -> bool:
        """Show how far the run is and its first picture; True where it is to stop."""
        if not comfy.model_management.processing_interrupted():
            pictures = thumbnails(event.medium, event.samples[:1])
            preview = ("JPEG", pictures[0], _PREVIEW) if pictures else None
            self._show(event.record.iteration, event.run.iterations, preview)
        return self._stopped or bool(comfy.model_management.processing_interrupted())

    def raise_if_stopped(self) -> None:
        """Tell ComfyUI that somebody pressed stop.

        Raises:
            InterruptProcessingException: somebody did.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        if self._stopped:
            raise comfy.model_management.InterruptProcessingException

    def _show(self, done: int, iterations: int, preview: object = None) -> None:
        try:
            self._bar.update_absolute(done, iterations, preview)
        except comfy.model_management.InterruptProcessingException:
            self._stopped = True
