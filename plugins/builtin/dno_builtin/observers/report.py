"""One page of the whole run."""

from __future__ import annotations

import logging

from dno.plugin import (
    BuildContext,
    ObserverConfig,
    RunFinished,
    clean,
    hookimpl,
    write_report,
)

_log = logging.getLogger("dno")


class Report(ObserverConfig):
    """One page of the whole run, `report.html` in the run folder, which any browser opens without a
    network: pictures on a slider, charts, the verdict, settings, and the command that repeats it.

    It is made of the files in the folder when the run ends, however it does; `dno report` makes it
    of runs that were killed. A run without a folder has none.
    """

    def build(self, ctx: BuildContext) -> object:
        """The observer."""
        return Reporter()


class Reporter:
    """Writes the report; where it cannot, it says so, and the run has ended as it did."""

    @hookimpl
    def run_finished(self, event: RunFinished) -> None:
        """Write what the folder holds as a page."""
        folder = event.run.folder
        if folder is None:
            return
        try:
            write_report(folder)
        # No page is worth a run that went well, whatever keeps it from being written.
        except Exception as error:
            _log.warning("there is no report: %s", clean(f"{type(error).__name__}: {error}"))
