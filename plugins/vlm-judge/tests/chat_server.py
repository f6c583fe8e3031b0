"""A real server on this machine that speaks as much of OpenAI's protocol as a judge asks for."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]
"""Status and body: JSON, or text as it is; of a redirect, where to."""


def completion(text: str | None, logprobs: Mapping[str, float] | None = None) -> Answer:
    """A chat completion, with the probabilities of its first token's rivals."""
    content = [
        {"token": token, "logprob": math.log(p), "bytes": None}
        for token, p in (logprobs or {}).items()
    ]
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": "length",
        "message": {"role": "assistant", "content": text},
    }
    if logprobs is not None:
        choice["logprobs"] = {"content": [{**content[0], "top_logprobs": content}], "refusal": None}
    return 200, {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "tiny",
        "choices": [choice],
    }


def refusal(status: int, message: str) -> Answer:
    """An error as OpenAI's server writes it."""
    return status, {
        "error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    }


class Server(ThreadingHTTPServer):
    """What it was asked, and what it answers to the n-th question."""

    daemon_threads = True

    def __init__(self, answer: Callable[[int, dict[str, Any]], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.models: Answer = (200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})
        self.also: dict[str, str] = {}
        """Headers of each answer besides the usual."""
        self.connections: list[socket.socket] = []
        self.busy = self.most_busy = 0
        self.delay = 0.0
        self.lock = threading.Lock()

    @property
    def keys(self) -> list[str | None]:
        """What came as the key, by request."""
        return [headers.get("authorization") for headers in self.headers]

    @property
    def url(self) -> str:
        """What a judge's base_url is set to."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remembers the connection, so that it can be cut."""
        self.connections.append(request)
        super().process_request(request, client_address)

    def stop(self) -> None:
        """Go down, in the middle of whatever it is."""
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has stopped waiting is no error of the server."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """The list of models."""
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        time.sleep(self.server.delay)
        self._send(
            self.server.models if self.path == "/v1/models" else refusal(404, "no such page")
        )

    def do_POST(self) -> None:
        """A question."""
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.asked)
            server.asked.append(body)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
        time.sleep(server.delay)
        try:
            found = self.path == "/v1/chat/completions"
            self._send(server.answer(number, body) if found else refusal(404, "no such page"))
        finally:
            with server.lock:
                server.busy -= 1

    def _send(self, answer: Answer) -> None:
        status, body = answer
        text = body if isinstance(body, str) else json.dumps(body)
        self.send_response(status)
        self.send_header(
            "Content-Type", "text/html" if text.startswith("<") else "application/json"
        )
        if 300 <= status < 400:
            self.send_header("Location", text)
        for name, value in self.server.also.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@contextmanager
def serving(answer: Callable[[int, dict[str, Any]], Answer]) -> Iterator[Server]:
    """The server, while the block runs."""
    server = Server(answer)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
