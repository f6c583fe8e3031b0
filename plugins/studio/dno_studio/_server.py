"""Serving the page: to whom, and what it may ask for."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dno.plugin import REGISTRIES, ConfigError

# Read when Gradio is imported: nothing is told to anybody.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from dno_studio._desk import Desk
    from dno_studio._limits import Limits

POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'"
)
"""The page, and the reports in it, get nothing from elsewhere, and send nothing there.

Gradio's own scripts are inline, and evaluate templates; what people wrote never becomes a script,
since it is escaped (`_html.py`)."""

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


def serve(
    runs: Path,
    models: list[str],
    host: str,
    port: int,
    *,
    people: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    framed_by: str = "'none'",
    port_named_by: str = "--port",
) -> None:
    """Serve the page until the process is asked to end; then the run at work keeps what it reached.

    Args:
        runs: folder of run folders.
        models: models to offer besides the installed ones.
        host: address to listen at.
        port: port to listen at; 0 for one that is free.
        people: password of each user; None: nobody is asked for one.
        limits: what people may ask for; None: what the machine can do.
        framed_by: the sites that may show the page in a frame, as the policy has them.
        port_named_by: the option or variable that the port came from.

    Raises:
        ConfigError: nothing can listen there.
    """
    listening = _listen(host, port, port_named_by)
    import uvicorn

    from dno_studio._desk import Desk

    desk = Desk(runs, limits)
    try:
        app = app_of(desk, models, host, people=people, framed_by=framed_by)
        where = f"[{host}]" if ":" in host else host
        print(f"http://{where}:{listening.getsockname()[1]}", flush=True)
        print(f"runs: {desk.runs}", flush=True)
        if not is_local(host):
            who = "everybody" if people is None else "whoever has a password and"
            print(f"{who} reaches this machine can use it; Ctrl-C ends it", flush=True)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        logging.getLogger("uvicorn.error").addFilter(_WhileServing(server))
        server.run([listening])
    finally:
        listening.close()
        desk.close()


def app_of(
    desk: Desk,
    models: list[str],
    host: str,
    *,
    people: Mapping[str, str] | None = None,
    framed_by: str = "'none'",
) -> FastAPI:
    """The page as a web application; for the arguments see `serve`."""
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from dno_studio._page import STYLE, page_of

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    fonts = ["ui-sans-serif", "system-ui", "sans-serif"]
    gr.mount_gradio_app(
        app,
        page_of(desk, [*dict.fromkeys([*models, *_installed()])], Path.cwd()),
        path="/",
        auth=None if people is None else _asks(people),
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=0,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"]),
        css=STYLE,
    )

    app.add_middleware(_WithHeaders, framed_by=framed_by)
    if is_local(host):
        # Somebody else's page may have a name of its own lead here.
        names = ["127.0.0.1", "localhost", "[::1]", host]
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=names)
    return app


def _asks(people: Mapping[str, str]) -> Callable[[str, str], bool]:
    """Whether a name and a password belong together; it takes as long for any."""

    def knows(name: str, password: str) -> bool:
        told = password.encode()
        found = False
        for user, secret in people.items():
            right = hmac.compare_digest(user.encode(), name.encode())
            found |= hmac.compare_digest(secret.encode(), told) and right
        return found

    return knows


class _WithHeaders:
    """Has every answer say what a browser may do with it."""

    def __init__(self, app: Any, framed_by: str) -> None:
        self._app = app
        policy = f"{POLICY}; frame-ancestors {framed_by}".encode()
        self._headers = ((b"content-security-policy", policy), *HEADERS)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_on(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
            await send(message)

        await self._app(scope, receive, send_on)


class _WhileServing(logging.Filter):
    """Passes over what is said of people who are sent away at the end."""

    def __init__(self, server: uvicorn.Server) -> None:
        super().__init__()
        self._server = server

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to say it."""
        return not self._server.should_exit


def is_local(host: str) -> bool:
    """Whether nobody but this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int, named_by: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        # Whoever comes before the page is there waits for it.
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"nothing can listen at {host}:{port} ({error.strerror or error}); "
            f"choose another: {named_by}",
            at=named_by,
        ) from None
    return listening


def _installed() -> list[str]:
    """Installed models that a diffusers pipeline reads."""
    names = []
    for registry in REGISTRIES:
        if registry.kind != "models":
            continue
        for info in registry.infos():
            config: Any = registry.load(info.qualified)()
            if (config.folder() / "model_index.json").is_file():
                names.append(info.name)
    return names
