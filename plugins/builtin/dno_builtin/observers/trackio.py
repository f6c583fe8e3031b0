"""Trackio."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from dno.plugin import RunError, RunInfo
from dno_builtin.observers._tracker import Log, ModuleLog, TrackerConfig, module, plain, unprinted

_holder: list[object] = []
"""The log that goes on, where its files go into its run folder."""


class Trackio(TrackerConfig):
    """Logs the run to Trackio: numbers of each iteration, pictures, the configuration, and why it
    ended. Needs the extra `dno[trackio]`.

    Without the variables TRACKIO_SPACE_ID and TRACKIO_SERVER_URL nothing leaves the machine. Files
    go to `trackio/` in the run folder, or where TRACKIO_DIR says: `TRACKIO_DIR=RUN/trackio trackio
    show` shows them. A resumed run goes on under the same name.
    """

    package: ClassVar[str] = "trackio"

    def open(self, run: RunInfo, folder: Path, name: str, key: str) -> Log:
        """See `TrackerConfig.open`.

        Raises:
            RunError: another run of this process is being logged to another folder.
        """
        own_place = "TRACKIO_DIR" in os.environ
        if not own_place and _holder:
            raise RunError(
                "trackio logs to one folder at a time; set TRACKIO_DIR for runs side by side"
            )
        trackio = module("trackio")
        if not own_place:
            _move_to(folder / "trackio")
        with unprinted():
            begun = trackio.init(
                project=self.project,
                # It knows runs by their names.
                name=f"{name}-{key[:8]}",
                resume="allow",
                config=plain(run.config),
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )
        log = _TrackioLog(begun, trackio.Image)
        if not own_place:
            _holder.append(log)
        return log


class _TrackioLog(ModuleLog):
    """It has no summary, and logs text as it logs numbers."""

    def end(self, about: Mapping[str, Any]) -> None:
        """See `Log`."""
        try:
            self.run.log({f"ended/{name}": value for name, value in about.items()})
            with unprinted():
                self.run.finish()
        finally:
            current = module("trackio.context_vars").current_run
            if current.get() is self.run:
                # Or it would be finished once more when the process ends.
                current.set(None)
            if self in _holder:
                _holder.remove(self)


def _move_to(place: Path) -> None:
    """Have trackio keep its files in a folder.

    It reads TRACKIO_DIR when it is imported, into names of its modules; a process may have several
    runs, each with a folder of its own.
    """
    old = module("trackio.utils").TRACKIO_DIR
    for name, loaded in list(sys.modules.items()):
        if name.partition(".")[0] != "trackio":
            continue
        for known, value in list(vars(loaded).items()):
            if isinstance(value, Path) and value.is_relative_to(old):
                setattr(loaded, known, place / value.relative_to(old))
