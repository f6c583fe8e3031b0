"""SwanLab."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from dno.plugin import RunError, RunInfo
from dno_builtin.observers._tracker import Log, ModuleLog, TrackerConfig, module, plain, unprinted


class SwanLab(TrackerConfig):
    """Logs the run to SwanLab: numbers of each iteration, pictures, the configuration, and why it
    ended. Needs the extra `dno[swanlab]`.

    Without `mode` and the variable SWANLAB_MODE nothing leaves the machine: files go to `swanlab/`
    in the run folder, and `swanlab sync` uploads them. A resumed run has the same id.
    """

    package: ClassVar[str] = "swanlab"

    mode: Literal["offline", "online", "local", "disabled"] | None = None
    """Whether to upload; what SWANLAB_MODE says if not given, and `offline` without it."""
    workspace: str | None = None
    """Whose project it is; your own if not given."""

    def open(self, run: RunInfo, folder: Path, name: str, key: str) -> Log:
        """See `TrackerConfig.open`.

        Raises:
            RunError: a run is being logged already, and SwanLab has one at a time.
        """
        swanlab = module("swanlab")
        if swanlab.has_run():
            raise RunError("swanlab logs one run at a time, and one goes on; finish that first")
        place = folder / "swanlab"
        place.mkdir(exist_ok=True)
        settings = swanlab.Settings(
            interactive=False,
            terminal={"proxy_type": "none"},
            probe={"git": False, "monitor": False, "hardware": False},
        )
        with unprinted():
            begun = swanlab.init(
                project=self.project,
                workspace=self.workspace,
                name=name,
                id=key,
                resume="allow",
                log_dir=str(place),
                config=plain(run.config),
                mode=self.mode or os.environ.get("SWANLAB_MODE") or "offline",
                settings=settings,
            )
        return _SwanLog(begun, swanlab.Image)


class _SwanLog(ModuleLog):
    """It has no summary: how a run ended is a part of its configuration."""

    def end(self, about: Mapping[str, Any]) -> None:
        """See `Log`."""
        self.run.config.update({"ended": dict(about)})
        with unprinted():
            self.run.finish()
