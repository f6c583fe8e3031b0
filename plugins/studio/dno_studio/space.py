"""The page for strangers, as a Hugging Face Space serves it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

import dno
from dno.plugin import ConfigError

PORT = "GRADIO_SERVER_PORT"
"""Environment variable with the port to listen at."""
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
        SystemExit: with a sentence, where nothing can listen, the port is none, or the secret has
            another form.
    """
    try:
        _serve(folder)
    except dno.DNOError as error:
        raise SystemExit(f"dno: {error}") from None


def _serve(folder: Path) -> None:
    # Before anything of the hub's is imported.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from dno_studio._limits import STRANGERS
    from dno_studio._people import people_of
    from dno_studio._server import serve

    port = _port()
    people = people_of(None)
    # The hub ends a Space by the second of these, and what runs then keeps what it reached.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        serve(
            folder / "runs",
            [],
            "0.0.0.0",
            port,
            people=people,
            limits=STRANGERS,
            framed_by=FRAMED_BY,
            port_named_by=PORT,
        )


def _port() -> int:
    given = os.environ.get(PORT, "7860")
    if not re.fullmatch("[0-9]{1,5}", given) or int(given) > 65535:
        raise ConfigError(f'"{given}" is no port; write a whole number from 0 to 65535', at=PORT)
    return int(given)
