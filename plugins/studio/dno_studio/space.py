"""The page for strangers, as a Hugging Face Space serves it."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

FRAMED_BY = "https://huggingface.co https://*.hf.space"
"""A Space is shown in a frame of the hub's page."""


def main(folder: Path) -> None:
    """Serve the page to all who come, within limits, until the process is asked to end.

    It listens everywhere, since a Space demands it, and asks nobody for a password unless the
    secret `DNO_UI_AUTH` holds a user:password. Only installed models are offered, and nothing is
    downloaded.

    Args:
        folder: the Space's own; runs are kept in its `runs`.

    Raises:
        ConfigError: nothing can listen, or the secret has another form.
    """
    # Before anything of the hub's is imported.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from dno_studio._limits import STRANGERS
    from dno_studio._people import people_of
    from dno_studio._server import serve

    # The hub ends a Space by the second of these, and what runs then keeps what it reached.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        serve(
            folder / "runs",
            [],
            "0.0.0.0",
            int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
            people=people_of(None),
            limits=STRANGERS,
            framed_by=FRAMED_BY,
        )
