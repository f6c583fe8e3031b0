"""The page where others come: the folder of a Hugging Face Space, and passwords."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import requires, version
from typing import Any
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement
from pages import (
    ROOT,
    SECONDS,
    Served,
    ask_for_four,
    dno_ui,
    serving,
    status,
    visit,
    wait_for_four,
)
from playwright.sync_api import Browser, expect

import dno

pytestmark = pytest.mark.slow

SPACE = ROOT / "plugins" / "studio" / "space"


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The folder as it is pushed, started as a Space starts it."""
    place = tmp_path_factory.mktemp("space")
    shutil.copytree(SPACE, place / "app")
    command = [sys.executable, str(place / "app" / "app.py")]
    environment = {"GRADIO_SERVER_PORT": "0"}
    with serving(place, command, place / "app" / "runs", environment) as server:
        assert server.address.startswith("http://0.0.0.0:")
        server.address = server.address.replace("0.0.0.0", "127.0.0.1")
        yield server


def test_the_space_is_the_same_page(chromium: Browser, space: Served) -> None:
    opened = visit(chromium, space)
    opened.wish("a black cat", 2)
    opened.wait_for("ended")
    assert "brightness" in opened.told()
    ask_for_four(opened, "a red fox", iterations=1)
    opened.page.keyboard.press("2")
    wait_for_four(opened, 1)
    names = space.folders() - {"picks"}
    assert len(names) == 9
    assert {str(dno.open_run(space.runs / name).status) for name in names} == {"finished"}
    # What would have a model downloaded is not offered.
    opened.tab("Optimise")
    opened.page.locator("#reward-0 input").first.click()
    offered = opened.page.get_by_role("option").all_inner_texts()
    assert {name.strip(" ✓\n") for name in offered} == {
        "brightness",
        "darkness",
        "contrast",
        "jpeg",
        "clip",
    }
    if picture := os.environ.get("DNO_STUDIO_SHOTS"):
        opened.page.screenshot(path=f"{picture}/space.png")
    opened.check(space)


def test_strangers_have_limits(chromium: Browser, space: Served) -> None:
    before = space.folders()
    opened = visit(chromium, space)
    opened.wish("a black cat", 41)
    expect(opened.page.locator("#progress")).to_contain_text("iterations: a whole number from 1")
    opened.fill("iterations", 2)
    opened.fill("steps", 31)
    opened.page.locator("#start").click()
    expect(opened.page.locator("#progress")).to_contain_text("steps: a whole number from 1 to 30")
    assert space.folders() == before


def test_the_hub_may_show_it_in_a_frame_and_nobody_else(space: Served) -> None:
    with urllib.request.urlopen(space.address) as answer:
        policy = answer.headers["content-security-policy"]
    assert "frame-ancestors https://huggingface.co https://*.hf.space" in policy
    assert "default-src 'self'" in policy


def call(server: Served, target: str, data: list[Any]) -> str:
    """What the page answers to a call that no page of ours makes."""
    with urllib.request.urlopen(f"{server.address}/config") as answer:
        config = json.load(answer)
    ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
    (number,) = [
        each["id"] for each in config["dependencies"] if [ids[target], "click"] in each["targets"]
    ]
    body = {"data": data, "fn_index": number, "session_hash": "stranger"}
    asked = urllib.request.Request(
        f"{server.address}/gradio_api/queue/join",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        urllib.request.urlopen(asked).close()
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode()
    host = urlsplit(server.address)
    stream = http.client.HTTPConnection(str(host.hostname), host.port, timeout=60)
    stream.request("GET", "/gradio_api/queue/data?session_hash=stranger")
    answer = stream.getresponse()
    told = ""
    while line := answer.readline().decode():
        told += line
        if '"process_completed"' in line or '"unexpected_error"' in line:
            break
    stream.close()
    return told


@pytest.mark.parametrize("target", ["start", "pick-start"])
@pytest.mark.parametrize("model", ["/etc", "../../secret", "runwayml/stable-diffusion-v1-5", None])
def test_no_model_is_named_by_strangers(target: str, model: object, space: Served) -> None:
    before = space.folders()
    rewards = ["brightness", 1, "", 1, "", 1]
    wish = ["a cat", model, 5, 1, 0, *(rewards if target == "start" else [])]
    told = call(space, target, wish)
    assert re.search(r"choose one of the list|\"success\": ?false", told), told
    assert space.folders() == before


@pytest.mark.parametrize("reward", ["pickscore", "picks", "/etc/passwd"])
def test_no_reward_besides_those_that_are_offered(reward: str, space: Served) -> None:
    before = space.folders()
    told = call(space, "start", ["a cat", "emoji", 5, 1, 0, reward, 1, "", 1, "", 1])
    assert re.search(r"choose one of the list|\"success\": ?false", told), told
    assert space.folders() == before


@pytest.mark.parametrize("value", ["5", [5], {"a": 1}, 1e300, -1, True])
def test_numbers_of_strangers_do_no_harm(value: object, space: Served) -> None:
    before = space.folders()
    call(space, "start", ["a cat", "emoji", value, 1, 0, "brightness", value, "", 1, "", 1])
    call(space, "pick-start", ["a cat", "emoji", 5, value, value])
    assert all(len(dno.open_run(space.runs / n).items) == 1 for n in space.folders() - before)
    assert status(urllib.request.Request(space.address)) == 200


def test_the_folder_says_what_the_hub_has_to_know() -> None:
    text = (SPACE / "README.md").read_text()
    front = dict(
        line.split(": ", 1) for line in text.split("---\n")[1].strip().splitlines() if ": " in line
    )
    assert front["sdk"] == "gradio"
    assert (SPACE / front["app_file"]).is_file()
    assert len(front["short_description"]) <= 60
    assert re.fullmatch(r"[a-z]+", front["colorFrom"])
    assert front["license"] == "apache-2.0"
    wanted = [
        Requirement(line)
        for line in (SPACE / "requirements.txt").read_text().splitlines()
        if line and not line.startswith(("#", "--"))
    ]
    assert {one.name for one in wanted} == {"dno", "dno-studio"}
    # What the hub installs of Gradio is what the page is made for.
    text = (ROOT / "plugins" / "studio" / "pyproject.toml").read_text()
    (gradio,) = re.findall(r'"(gradio[^"]*)"', text)
    assert Requirement(gradio).specifier.contains(front["sdk_version"])
    assert Requirement(gradio).specifier.contains(version("gradio"))
    assert f'requires-python = ">={front["python_version"].strip(chr(34))}"' in text
    assert requires("dno")


def test_a_space_that_is_ended_keeps_what_was_reached(chromium: Browser, space: Served) -> None:
    """Of the Space's tests the last, since nothing is served afterwards."""
    before = space.folders()
    opened = visit(chromium, space)
    opened.wish("a pink pig", 40)
    opened.page.wait_for_selector(".dno-curve polyline")
    space.process.send_signal(signal.SIGTERM)
    assert space.process.wait(60) == 0
    (name,) = space.folders() - before
    assert dno.open_run(space.runs / name).status in ("stopped", "finished")
    opened.page.context.close()


def test_passwords_are_asked_for(
    chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("people")
    (place / "people").write_text("# mine\nann:correct horse\n\nbob:Ünïcode: battery\n")
    command = dno_ui("--port", "0", "--runs", "mine", "--auth-file", "people")
    with serving(place, command, place / "mine") as server:
        # Nothing of the page or its calls is to be had without.
        for path in ("/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=x"):
            assert status(urllib.request.Request(server.address + path)) == 401
        page = chromium.new_context().new_page()
        page.set_default_timeout(SECONDS)
        page.goto(server.address)
        page.get_by_label("username").fill("bob")
        page.get_by_label("password").fill("correct horse")
        page.get_by_role("button", name="Login").click()
        expect(page.locator("body")).to_contain_text("Incorrect")
        assert page.locator("#start").count() == 0
        if picture := os.environ.get("DNO_STUDIO_SHOTS"):
            page.screenshot(path=f"{picture}/login.png")
        page.get_by_label("username").fill("bob")
        page.get_by_label("password").fill("Ünïcode: battery")
        with page.expect_response("**/login") as answer:
            page.get_by_role("button", name="Login").click()
        assert answer.value.ok
        page.wait_for_selector("#start")
        page.context.close()
    assert "battery" not in (place / "log").read_text()
