"""Weights & Biases."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, Literal

from dno.plugin import RunInfo
from dno_builtin.observers._tracker import Log, ModuleLog, TrackerConfig, module, plain


class Wandb(TrackerConfig):
    """Logs the run to Weights & Biases: numbers of each iteration, pictures, the configuration, and
    why it ended. Needs the extra `dno[wandb]`.

    Without `mode` and the variable WANDB_MODE nothing leaves the machine: files go to `wandb/` in
    the run folder, and `wandb sync` uploads them. A resumed run has the same id.
    """

    package: ClassVar[str] = "wandb"

    mode: Literal["offline", "online", "disabled"] | None = None
    """Whether to upload; what WANDB_MODE says if not given, and `offline` without it."""
    entity: str | None = None
    """Whose project it is; your own if not given."""

    def open(self, run: RunInfo, folder: Path, name: str, key: str) -> Log:
        """See `TrackerConfig.open`."""
        wandb = module("wandb")
        settings = wandb.Settings(
            silent=True,
            # What is printed is for the terminal, and the code is not the run's.
            console="off",
            disable_git=True,
            save_code=False,
            disable_code=True,
            # A run folder with a link in it is not gone on with.
            symlink=False,
        )
        begun = wandb.init(
            project=self.project,
            entity=self.entity,
            name=name,
            id=key,
            resume="allow",
            # A run of the script's own goes on beside it.
            reinit="create_new",
            dir=str(folder),
            config=plain(run.config),
            mode=self.mode or os.environ.get("WANDB_MODE") or "offline",
            settings=settings,
        )
        return ModuleLog(begun, wandb.Image)
