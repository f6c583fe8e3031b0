"""What `dno ui` refuses before it serves anything."""

from __future__ import annotations

import importlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dno.plugin import ConfigError

STUDIO = Path(__file__).parents[2] / "plugins" / "studio"


@pytest.fixture(autouse=True)
def _studio(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(STUDIO))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DNO_UI_AUTH", raising=False)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would have been served, a table a call."""
    calls: list[dict[str, Any]] = []
    server = importlib.import_module("dno_studio._server")

    def serve(runs: Path, models: list[str], host: str, port: int, **options: Any) -> None:
        calls.append({"host": host, **options})

    monkeypatch.setattr(server, "serve", serve)
    return calls


def ui(**options: Any) -> None:
    importlib.import_module("dno_studio.command").ui(**options)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_others_need_a_password_unless_somebody_says_that_they_do_not(
    host: str, served: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="--host: .* lets in everybody .* --auth-file FILE"):
        ui(host=host)
    assert served == []
    ui(host=host, no_auth=True)
    file = tmp_path / "people"
    file.write_text("ann:secret\n")
    ui(host=host, auth_file=file)
    monkeypatch.setenv("DNO_UI_AUTH", "bob:other: one")
    ui(host=host)
    ui(host=host, auth_file=file)
    found = [call["people"] for call in served]
    assert found == [
        None,
        {"ann": "secret"},
        {"bob": "other: one"},
        {"bob": "other: one", "ann": "secret"},
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_needs_none(host: str, served: list[dict[str, Any]]) -> None:
    ui(host=host)
    assert served == [{"host": host, "people": None}]


WRONG = {
    "no colon": ("ann:a\nsecret-word\n", 'line 2 of "people" has another form|line 2'),
    "no password": ("ann:\n", "line 1"),
    "no name": (":secret-word\n", "line 1"),
    "twice": ("ann:a\n\nann:b\n", "names ann a second time"),
    "nobody": ("# ann:a\n", "names nobody"),
    "no text": (b"\xff\xfe:\xff", "cannot be read: it is no text"),
    "missing": (None, "cannot be read: No such file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_of_another_form_is_refused_and_never_shown(
    name: str, served: list[dict[str, Any]], tmp_path: Path
) -> None:
    content, says = WRONG[name]
    file = tmp_path / "people"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=says) as raised:
        ui(host="0.0.0.0", auth_file=Path("people"))
    assert "secret-word" not in str(raised.value)
    assert served == []


def test_the_variable_of_another_form_is_refused_and_never_shown(
    served: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNO_UI_AUTH", "secret-word")
    with pytest.raises(ConfigError, match="DNO_UI_AUTH: has another form") as raised:
        ui()
    assert "secret-word" not in str(raised.value)
    monkeypatch.setenv("DNO_UI_AUTH", "")
    with pytest.raises(ConfigError, match="DNO_UI_AUTH: has another form"):
        ui(host="0.0.0.0")


def test_a_file_and_no_auth_are_not_both_meant(served: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match="--auth-file: .* --no-auth"):
        ui(auth_file=Path("people"), no_auth=True)


def test_who_is_asked_is_known_by_name_and_password_together() -> None:
    asks = importlib.import_module("dno_studio._server")._asks
    knows = asks({"ann": "one", "bob": "zwölf"})
    assert knows("ann", "one")
    assert knows("bob", "zwölf")
    assert not knows("ann", "zwölf")
    assert not knows("", "")
    assert not knows("eve", "one")


FORMS = {
    "plain": "ann:secret\n",
    "a byte-order mark": "\ufeffann:secret\n",
    "blanks around the colon": "ann : secret\n",
    "blanks around the line": "\t ann:secret \r\n",
    "comments": "# mine\n  # bob:other\n\t#eve:x\nann:secret",
}


@pytest.mark.parametrize("name", FORMS)
def test_what_editors_add_is_no_part_of_a_name_or_password(
    name: str, served: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "people").write_bytes(FORMS[name].encode())
    ui(host="0.0.0.0", auth_file=Path("people"))
    assert [call["people"] for call in served] == [{"ann": "secret"}]


@pytest.mark.skipif(os.name != "posix", reason="modes mean nothing there")
@pytest.mark.parametrize(
    ("mode", "told"), [(0o644, True), (0o640, True), (0o602, True), (0o600, False), (0o400, False)]
)
def test_a_file_that_others_can_read_is_warned_of(
    mode: int,
    told: bool,
    served: list[dict[str, Any]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = tmp_path / "my people"
    file.write_text("ann:secret-word\n")
    file.chmod(mode)
    ui(host="0.0.0.0", auth_file=Path("my people"))
    assert ("chmod 600 'my people'" in caplog.text) is told
    assert "secret-word" not in caplog.text
    assert len(served) == 1


@pytest.fixture
def _signals() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


MISTAKES = {
    "a word": ({"DNO_UI_AUTH": "secret-word"}, "DNO_UI_AUTH: has another form"),
    "nothing": ({"DNO_UI_AUTH": ""}, "DNO_UI_AUTH: has another form"),
    "blanks": ({"DNO_UI_AUTH": " : "}, "DNO_UI_AUTH: has another form"),
    "a port in words": ({"GRADIO_SERVER_PORT": "http"}, 'GRADIO_SERVER_PORT: "http" is no port'),
    "no port": ({"GRADIO_SERVER_PORT": ""}, 'GRADIO_SERVER_PORT: "" is no port'),
    "a negative port": ({"GRADIO_SERVER_PORT": "-1"}, 'GRADIO_SERVER_PORT: "-1" is no port'),
    "a large port": ({"GRADIO_SERVER_PORT": "65536"}, 'GRADIO_SERVER_PORT: "65536" is no port'),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.usefixtures("_signals")
def test_a_space_answers_a_mistake_of_its_owner_with_a_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables, says = MISTAKES[name]
    told = space_refused({"GRADIO_SERVER_PORT": "0", **variables}, tmp_path, monkeypatch)
    assert told.startswith(f"dno: {says}")
    assert "\n" not in told
    assert "secret-word" not in told


@pytest.mark.usefixtures("_signals")
def test_a_space_says_that_its_port_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        told = space_refused({"GRADIO_SERVER_PORT": port}, tmp_path, monkeypatch)
    assert told.startswith(f"dno: GRADIO_SERVER_PORT: nothing can listen at 0.0.0.0:{port}")
    assert "--port" not in told


def space_refused(variables: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a Space that does not start ends with."""
    for variable, value in {"HF_HUB_OFFLINE": "1", **variables}.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as raised:
        importlib.import_module("dno_studio.space").main(folder)
    assert raised.value.code != 0
    return str(raised.value.code)
