"""A judge behind HTTP, against a real server on this machine."""

from __future__ import annotations

import base64
import io
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from chat_server import Answer, Server, completion, refusal, serving
from dno_vlm_judge import endpoint
from dno_vlm_judge._key import KEY
from dno_vlm_judge.endpoint import VLMJudgeHTTP
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

import dno
from dno.plugin import BuildContext, ConfigError, RunError
from dno.testing import RewardContract

CPU = BuildContext(device=torch.device("cpu"), dtype=torch.float32)
PROMPTS = ["a cat", "a white duck"]
Serve = Callable[[Callable[[int, dict[str, Any]], Answer]], Server]


def question_in(body: dict[str, Any]) -> str:
    text: str = body["messages"][0]["content"][1]["text"]
    return text


def picture_in(body: dict[str, Any]) -> Image.Image:
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def brightness(number: int, body: dict[str, Any]) -> Answer:
    """Says yes the more, the brighter the image is and the longer the question."""
    level = 0.1 + 0.7 * float(np.asarray(picture_in(body)).mean()) / 255
    yes = level * min(1, len(question_in(body)) / 100)
    return completion("Yes", {"Yes": yes, "no": 0.9 - yes, "Maybe": 0.1})


def always(answer: Answer) -> Callable[[int, dict[str, Any]], Answer]:
    return lambda number, body: answer


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 16, 24, generator=torch.Generator().manual_seed(0))


DRIPS = {
    "in its headers": b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000,
    "in its body": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    b"Content-Length: 9000\r\n\r\n" + b" " * 9000,
}
"""Answers of which the first line comes at once, and the rest a byte at a time."""


@contextmanager
def dripping(answer: bytes, pause: float) -> Iterator[str]:
    """The address of a server that answers so, while the block runs."""
    listening = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            head, line, rest = answer.partition(b"\r\n")
            connection.sendall(head + line)
            for byte in rest:
                if ended.wait(pause):
                    return
                connection.sendall(bytes([byte]))

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=drip, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        ended.set()
        listening.close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    opened: list[AbstractContextManager[Server]] = []

    def start(answer: Callable[[int, dict[str, Any]], Answer]) -> Server:
        opened.append(serving(answer))
        return opened[-1].__enter__()

    yield start
    for one in opened:
        one.__exit__(None, None, None)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses between tries are the client's; a test need not sit through them."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


def config(server: Server | str, **options: Any) -> VLMJudgeHTTP:
    url = server if isinstance(server, str) else server.url
    return VLMJudgeHTTP(**{"base_url": url, "model": "tiny", **options})


def judge(server: Server | str, **options: Any) -> Any:
    return config(server, **options).build(CPU)


def failure(server: Server | str, **options: Any) -> str:
    """What is said when a judge is asked."""
    with pytest.raises(RunError) as caught:
        judge(server, **options)(images(), PROMPTS)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class TestContract(RewardContract):
    @pytest.fixture(autouse=True)
    def _config(self, serve: Serve) -> None:
        self.config = config(serve(brightness))


class TestWhatIsSent:
    def test_a_question_with_its_image(self, serve: Serve) -> None:
        server = serve(always(completion("yes", {"yes": 0.5, "no": 0.5})))
        shown = images()
        judge(server, concurrency=1)(shown, PROMPTS)
        for image, prompt, body in zip(shown, PROMPTS, server.asked, strict=True):
            assert (
                question_in(body) == f'Does this figure show "{prompt}"? Please answer yes or no.'
            )
            levels = torch.from_numpy(np.array(picture_in(body))).permute(2, 0, 1)
            assert torch.equal(levels, (image * 255).round().byte())
            settings = {name: value for name, value in body.items() if name != "messages"}
            assert settings == {
                "model": "tiny",
                "temperature": 0,
                "max_tokens": 1,
                "logprobs": True,
                "top_logprobs": 20,
            }

    def test_the_key_from_the_named_variable(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = serve(always(completion("yes", {"yes": 0.5, "no": 0.5})))
        monkeypatch.setenv("VLM_JUDGE_MINE", "sesame")
        monkeypatch.setenv("OPENAI_API_KEY", "another")
        judge(server, api_key_env="VLM_JUDGE_MINE")(images(1), PROMPTS[:1])
        judge(server)(images(1), PROMPTS[:1])
        assert server.keys == ["Bearer sesame", None]

    def test_nothing_else_from_the_environment(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
            monkeypatch.setenv(name, "sesame")
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: sesame\nAuthorization: Bearer sesame")
        monkeypatch.setenv(KEY, "open")
        server = serve(always(completion("yes", {"yes": 0.5, "no": 0.5})))
        for options in ({}, {"api_key_env": KEY}):
            config(server, **options).check()
            judge(server, **options)(images(1), PROMPTS[:1])
        assert server.keys == [None, None, "Bearer open", "Bearer open"]
        assert "sesame" not in str(server.headers)

    def test_several_side_by_side_and_no_more(self, serve: Serve) -> None:
        server = serve(always(completion("yes", {"yes": 0.5, "no": 0.5})))
        server.delay = 0.05
        judge(server, concurrency=3)(images(7), ["a cat"] * 7)
        assert server.most_busy == 3


class TestWhatIsAnswered:
    def test_yes_over_yes_and_no(self, serve: Serve) -> None:
        shares = {
            "Yes": 0.3,
            " yes": 0.1,
            "▁YES": 0.05,
            "No": 0.1,
            "Ġno": 0.05,
            "now": 0.2,
            "Yess": 0.1,
            "\n": 0.1,
        }
        found = judge(serve(always(completion("Yes", shares))))(images(1), ["a cat"])
        torch.testing.assert_close(found, torch.tensor([0.45 / 0.6]))

    def test_each_to_its_own_question_whatever_the_order_of_answers(self, serve: Serve) -> None:
        def slow_first(number: int, body: dict[str, Any]) -> Answer:
            time.sleep(0.2 if "a cat" in question_in(body) else 0)
            return completion(
                "yes", {"yes": 0.2, "no": 0.8} if "a cat" in question_in(body) else {"yes": 1.0}
            )

        found = judge(serve(slow_first))(images(), PROMPTS)
        torch.testing.assert_close(found, torch.tensor([0.2, 1.0]))

    def test_a_word_beyond_the_likeliest_counts_nothing(self, serve: Serve) -> None:
        assert (
            judge(serve(always(completion("No", {"No": 0.9, "Nope": 0.1}))))(
                images(1), ["a cat"]
            ).item()
            == 0
        )

    @pytest.mark.parametrize(
        ("text", "score"),
        [("Yes", 1), ("no", 0), ("\nYes, it does.", 1), ("**No**", 0)],
        ids=lambda value: str(value),
    )
    def test_text_where_there_are_no_probabilities(
        self, serve: Serve, caplog: pytest.LogCaptureFixture, text: str, score: int
    ) -> None:
        with caplog.at_level(logging.WARNING, logger="dno"):
            reward = judge(serve(always(completion(text))))
            assert reward(images(8), ["a cat"] * 8).tolist() == [score] * 8
        (said,) = caplog.messages
        assert said.endswith("gives no probabilities, so that yes counts 1 and no counts 0")

    def test_text_where_no_probabilities_are_wanted(
        self, serve: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = serve(always(completion("Yes")))
        assert judge(server, logprobs=False)(images(1), PROMPTS[:1]).tolist() == [1]
        assert "logprobs" not in server.asked[0]
        assert "top_logprobs" not in server.asked[0]
        assert not caplog.messages


@pytest.fixture
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked again is asked again soon."""
    monkeypatch.setattr("dno_vlm_judge._endpoint.FIRST_PAUSE", 0.02)


class TestWhatGoesWrong:
    @pytest.mark.usefixtures("_short_pauses")
    def test_two_failures_are_tried_again(self, serve: Serve) -> None:
        def third_time(number: int, body: dict[str, Any]) -> Answer:
            return (
                refusal(503, "loading")
                if number < 2
                else completion("yes", {"yes": 0.25, "no": 0.75})
            )

        server = serve(third_time)
        assert judge(server, retries=2)(images(1), ["a cat"]).item() == 0.25
        assert len(server.asked) == 3

    @pytest.mark.usefixtures("_short_pauses")
    def test_a_broken_server(self, serve: Serve) -> None:
        server = serve(always(refusal(503, "loading")))
        assert failure(server, retries=1) == (
            f"the judge at {server.url} answered with status 503, asked 2 times (loading); look "
            "at the server, or "
            "raise retries"
        )

    def test_a_slow_server(self, serve: Serve) -> None:
        server = serve(always(completion("yes")))
        server.delay = 0.5
        assert failure(server, timeout=0.1, retries=1) == (
            f"the judge at {server.url} gave no answer within 0.1 s, asked 2 times; raise "
            "timeout or lower concurrency"
        )

    @pytest.mark.usefixtures("_short_pauses")
    @pytest.mark.parametrize("answer", DRIPS.values(), ids=DRIPS.keys())
    def test_an_answer_that_comes_in_drops(self, answer: bytes) -> None:
        """Each drop is in time; the whole would never be."""
        with dripping(answer, pause=0.05) as url:
            began = time.monotonic()
            said = failure(url, timeout=0.5, retries=1)
            assert time.monotonic() - began < 4
        assert "gave no answer within 0.5 s, asked 2 times" in said

    @pytest.mark.parametrize("after", ["30", "30.5", "Fri, 01 Jan 2100 00:00:00 GMT"])
    def test_a_server_that_asks_for_a_long_pause(self, serve: Serve, after: str) -> None:
        server = serve(always(refusal(429, "busy")))
        server.also = {"Retry-After": after}
        began = time.monotonic()
        with pytest.raises(RunError, match="status 429, too many requests"):
            judge(server, timeout=0.3, retries=2)(images(1), ["a cat"])
        assert time.monotonic() - began < 3
        assert len(server.asked) == 3

    def test_a_server_that_asks_for_a_short_pause(self, serve: Serve) -> None:
        server = serve(always(refusal(503, "busy")))
        server.also = {"Retry-After": "0.01"}
        began = time.monotonic()
        with pytest.raises(RunError, match="status 503, asked 4 times"):
            judge(server, timeout=30, retries=3)(images(1), ["a cat"])
        assert time.monotonic() - began < 0.5 + 1 + 2
        assert len(server.asked) == 4

    def test_an_answer_of_any_size(self, serve: Serve) -> None:
        status, body = completion("yes", {"yes": 0.5, "no": 0.5})
        body["padding"] = "x" * (5 * 2**20)
        server = serve(always((status, body)))
        with pytest.raises(RunError) as caught:
            judge(server, retries=3)(images(1), ["a cat"])
        assert str(caught.value) == (
            f"the judge at {server.url} gave an answer of more than 4 MB, which is no chat "
            "completion; correct base_url"
        )
        assert len(server.asked) == 1

    def test_a_packed_answer(self, serve: Serve) -> None:
        """It may unpack to any size, and nobody asked for it."""
        server = serve(always(completion("yes", {"yes": 0.5, "no": 0.5})))
        server.also = {"Content-Encoding": "gzip"}
        assert "an answer that is packed" in failure(server)
        assert server.headers[-1]["accept-encoding"] == "identity"

    @pytest.mark.usefixtures("_short_pauses")
    def test_a_server_that_is_down(self) -> None:
        url = f"http://127.0.0.1:{free_port()}/v1"
        said = failure(url, retries=1)
        assert said.startswith(f"the judge at {url} cannot be reached (")
        assert said.endswith("); start the server, or correct base_url")

    def test_a_server_that_goes_down_between_two_questions(self, serve: Serve) -> None:
        with serving(always(completion("yes", {"yes": 0.5, "no": 0.5}))) as server:
            reward = judge(server, retries=0, timeout=2)
            reward(images(), PROMPTS)
        with pytest.raises(RunError, match="cannot be reached"):
            reward(images(), PROMPTS)

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirect_is_told_and_not_followed(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        monkeypatch.setenv(KEY, "sesame")
        other = serve(brightness)
        server = serve(always((status, f"{other.url}/sesame")))
        server.models = server.answer(0, {})
        said = (
            f"the judge at {server.url} sends on to {other.url}/***, where nothing is sent "
            "unasked; if you trust that, "
        )
        said += "correct base_url"
        assert failure(server, api_key_env=KEY) == said
        with pytest.raises(ConfigError) as caught:
            config(server, api_key_env=KEY).check()
        assert str(caught.value) == f"base_url: {said}"
        assert not other.headers

    def test_as_many_prompts_as_images_are_wanted(self, serve: Serve) -> None:
        server = serve(brightness)
        for count in (1, 3):
            with pytest.raises(ValueError, match="argument 2 is"):
                judge(server)(images(count), PROMPTS)
        assert not server.asked

    def test_a_key_that_is_missing_or_refused(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = serve(always(refusal(401, "Incorrect API key provided.")))
        assert failure(server) == (
            f"the judge at {server.url} wants a key (Incorrect API key provided.); put one into "
            "a variable such as "
            "VLM_JUDGE_API_KEY, and name that in api_key_env"
        )
        monkeypatch.setenv(KEY, "sesame")
        assert failure(server, api_key_env=KEY) == (
            f"the judge at {server.url} refuses the key in VLM_JUDGE_API_KEY (Incorrect API key "
            "provided.); put one "
            "that it takes into that variable"
        )

    def test_an_unknown_model(self, serve: Serve) -> None:
        server = serve(always(refusal(404, "The model `tiny` does not exist.")))
        assert failure(server).endswith(
            'answered with status 404 to a question for model "tiny" (The model `tiny` does not '
            "exist.); correct model "
            "or base_url"
        )

    def test_too_many_questions(self, serve: Serve) -> None:
        said = failure(serve(always(refusal(429, "Slow down."))), retries=0)
        assert said.endswith(
            "status 429, too many requests (Slow down.); lower concurrency or raise retries"
        )

    def test_a_server_that_knows_no_logprobs(self, serve: Serve) -> None:
        said = failure(serve(always(refusal(400, "logprobs are not supported"))))
        assert said.endswith(
            "status 400 (logprobs are not supported); if it knows no logprobs, set logprobs to "
            "false"
        )

    @pytest.mark.parametrize(
        "answer",
        [
            completion("A cat on a mat", {"A": 0.9, "The": 0.1}),
            completion("A cat on a mat"),
            completion("Nobody knows"),
            completion(""),
            completion(None),
        ],
        ids=["unlikely", "text", "begins as no", "empty", "nothing"],
    )
    def test_neither_yes_nor_no(self, serve: Serve, answer: Answer) -> None:
        assert "which is neither yes nor no; ask more plainly in question" in failure(
            serve(always(answer))
        )

    @pytest.mark.parametrize(
        "answer",
        [
            (200, "<html>Welcome</html>"),
            (200, "{"),
            (200, ""),
            (200, "null"),
            (200, "[]"),
            (200, {}),
            (200, {"choices": []}),
            (200, {"choices": [{}]}),
            (
                200,
                {
                    "choices": [
                        {"message": {"content": "x"}, "logprobs": {"content": [{"token": "yes"}]}}
                    ]
                },
            ),
            (200, '{"choices": [{"message": {"content": "x"}, "logprobs": 3}]}'),
        ],
        ids=lambda answer: str(answer[1])[:40],
    )
    def test_junk(self, serve: Serve, answer: Answer) -> None:
        said = failure(serve(always(answer)))
        assert "something that is no chat completion" in said
        assert "correct base_url" in said

    def test_probabilities_that_are_none(self, serve: Serve) -> None:
        status, body = completion("x", {"yes": 0.5, "no": 0.5})
        body["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0]["logprob"] = float("nan")
        assert "neither yes nor no" in failure(serve(always((status, body))))

    def test_one_failure_ends_the_batch(self, serve: Serve) -> None:
        server = serve(always(refusal(404, "no")))
        server.delay = 0.05
        before = threading.enumerate()
        with pytest.raises(RunError):
            judge(server, concurrency=1)(images(20), ["a cat"] * 20)
        # One may be about to start, and cannot be joined yet.
        deadline = time.monotonic() + 30
        while any(
            thread.name.startswith("vlm-judge")
            for thread in set(threading.enumerate()) - set(before)
        ):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(server.asked) < 10


class TestCheck:
    def test_a_server_that_is_there(self, serve: Serve) -> None:
        server = serve(brightness)
        config(server).check()
        assert not server.asked

    def test_a_server_that_is_down_is_told_before_anything_is_loaded(self) -> None:
        url = f"http://127.0.0.1:{free_port()}/v1"
        with pytest.raises(ConfigError) as caught:
            dno.optimize(
                "a cat",
                reward={"use": "vlm-judge-http", "base_url": url, "model": "tiny"},
                model="emoji",
            )
        assert str(caught.value).startswith(
            f"rewards.0.base_url: the judge at {url} cannot be reached ("
        )

    def test_a_refused_key(self, serve: Serve) -> None:
        server = serve(brightness)
        server.models = refusal(401, "No key.")
        with pytest.raises(
            ConfigError,
            match=r"api_key_env: the judge at .* wants a key \(No key\.\); put one into",
        ):
            config(server).check()

    @pytest.mark.parametrize(
        "models", [refusal(404, "no"), refusal(500, "no"), (200, "<html/>"), (200, {"data": []})]
    )
    def test_what_proves_nothing_is_let_pass(self, serve: Serve, models: Answer) -> None:
        server = serve(brightness)
        server.models = models
        config(server).check()

    def test_a_slow_server_is_let_pass(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(endpoint, "KNOCK", 0.1)
        server = serve(brightness)
        server.delay = 0.3
        config(server).check()


class TestAddress:
    def refused(self, **options: Any) -> str:
        """What is said about options of a run; it shows no secret, nor does pydantic's own
        error.
        """
        with pytest.raises(ValidationError) as plain:
            VLMJudgeHTTP(**{"model": "tiny", **options})
        with pytest.raises(ConfigError) as caught:
            dno.RunConfig.parse(
                {
                    "prompts": "a cat",
                    "rewards": [{"use": "vlm-judge-http", "model": "tiny", **options}],
                }
            )
        for error in (plain.value, caught.value):
            assert "sesame" not in "".join(traceback.format_exception(error))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize(
        "url",
        [
            *(
                "localhost:8000/v1",
                "ftp://here/v1",
                "http://",
                "",
                "file:///etc/passwd",
                "me:sesame@here/v1",
            ),
            *(
                "http://here:sesame/v1",
                "http://me:/sesame@here/v1",
                "http://here:70000",
                "http://[1:2:sesame]",
            ),
            *(
                "http://[1:2]",
                "http://a..b",
                "http://here/v1\n",
                "http://he re/sesame",
                "http://hëre",
            ),
        ],
    )
    def test_what_is_no_address_is_refused(self, url: str) -> None:
        assert self.refused(base_url=url) == (
            "rewards.0.base_url: is no address of a server; give one such as "
            "http://localhost:8000/v1"
        )

    @pytest.mark.parametrize(
        "url", ["https://me:sesame@there/v1", "https://sesame@there", "http://@there:80/v1?sesame"]
    )
    def test_a_password_in_the_address_is_refused(self, url: str) -> None:
        assert self.refused(base_url=url) == (
            "rewards.0.base_url: holds a name or password, which would be saved with the run; "
            "put a key into a "
            "variable such as VLM_JUDGE_API_KEY, and name that in api_key_env"
        )

    @pytest.mark.parametrize("rest", ["?api-key=sesame", "#sesame", "/?", "#"])
    def test_a_query_or_fragment_is_refused(self, rest: str) -> None:
        assert self.refused(base_url=f"https://there/v1{rest}") == (
            "rewards.0.base_url: holds a query or fragment, which would be saved with the run; "
            "end it before the ? or #"
        )

    @pytest.mark.parametrize(
        "url",
        ["HTTPS://there/v1/", "http://[::1]:8000", "http://a-b_c.d:1/@/%7E", "http://10.0.0.1"],
    )
    def test_other_addresses_are_taken(self, url: str) -> None:
        assert config(url).build(CPU)

    @pytest.mark.parametrize(
        "name",
        ["OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "VLM_JUDGE_", "vlm_judge_x", "", "sesame"],
    )
    def test_a_variable_that_is_for_something_else_is_refused(self, name: str) -> None:
        assert self.refused(api_key_env=name) == (
            "rewards.0.api_key_env: should be the name of a variable that begins with "
            "VLM_JUDGE_; put the key into "
            "one, such as VLM_JUDGE_API_KEY, and name that"
        )


class TestKey:
    def refused(self, url: str = "http://localhost:8000/v1") -> str:
        """What is said about the key, before anything is sent."""
        said = set()
        for use in (lambda reward: reward.check(), lambda reward: reward.build(CPU)):
            with pytest.raises(ConfigError) as caught:
                use(config(url, api_key_env=KEY))
            assert "secret" not in "".join(traceback.format_exception(caught.value))
            said.add(str(caught.value))
        (one,) = said
        return one

    @pytest.mark.parametrize("around", ["{}\n", "{}\r", "{}\r\n", " {}\t"], ids=ascii)
    def test_white_space_around_it_is_no_part_of_it(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, around: str
    ) -> None:
        monkeypatch.setenv(KEY, around.format("sk-secret"))
        server = serve(brightness)
        config(server, api_key_env=KEY).check()
        judge(server, api_key_env=KEY)(images(1), PROMPTS[:1])
        assert server.keys == ["Bearer sk-secret"] * 2

    @pytest.mark.parametrize(
        "key", ["sk-secrét", "sk-\nsecret", "sk-\x07secret", "Bearer sk-secret", "sk-secret\udc80"]
    )
    def test_one_that_no_header_may_hold_is_told(
        self, monkeypatch: pytest.MonkeyPatch, key: str
    ) -> None:
        monkeypatch.setenv(KEY, key)
        assert self.refused() == (
            "api_key_env: names VLM_JUDGE_API_KEY, which holds spaces or characters that no "
            "header may hold; put the "
            "key alone there"
        )

    @pytest.mark.parametrize("key", [None, "", " ", "\r\n"], ids=ascii)
    def test_none_where_one_is_named_is_told(
        self, monkeypatch: pytest.MonkeyPatch, key: str | None
    ) -> None:
        if key is not None:
            monkeypatch.setenv(KEY, key)
        assert self.refused() == (
            "api_key_env: names VLM_JUDGE_API_KEY, which is not set or blank; put the key there, "
            "or leave "
            "api_key_env out"
        )

    @pytest.mark.parametrize(
        "host", ["here.example", "10.0.0.1", "localhost.example", "127.0.0.1.example", "[::2]"]
    )
    def test_it_is_not_sent_unencrypted(self, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
        monkeypatch.setenv(KEY, "sk-secret")
        assert self.refused(f"HTTP://{host}/v1") == (
            "base_url: would have the key sent unencrypted; use https, a tunnel to localhost, or "
            "no api_key_env"
        )

    @pytest.mark.parametrize(
        "url", ["https://here.example", "http://LOCALHOST:1", "http://127.0.0.2", "http://[::1]/v1"]
    )
    def test_it_is_sent_by_https_or_to_this_machine(
        self, monkeypatch: pytest.MonkeyPatch, url: str
    ) -> None:
        monkeypatch.setenv(KEY, "sk-secret")
        assert config(url, api_key_env=KEY).build(CPU)

    def test_no_proxy_reads_it(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        proxy, server = serve(brightness), serve(brightness)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        monkeypatch.setenv(KEY, "sk-secret")
        config(server, api_key_env=KEY).check()
        assert server.keys == ["Bearer sk-secret"]
        assert not proxy.headers

    @pytest.mark.parametrize(
        "answer",
        [
            *(
                refusal(status, f"{'x' * 100} Bearer sk-secret is wrong")
                for status in (400, 401, 403, 404, 429, 500)
            ),
            completion("Bearer sk-secret"),
            (200, "Bearer sk-secret"),
            (200, '{"sk-secret'),
            (307, "http://there/?key=sk-secret"),
        ],
        ids=lambda answer: str(answer)[:40],
    )
    def test_a_server_that_repeats_it_is_not_quoted(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, answer: Answer
    ) -> None:
        monkeypatch.setenv(KEY, "sk-secret")
        server = serve(always(answer))
        server.models = answer
        reward = judge(server, api_key_env=KEY, retries=0)
        with pytest.raises(RunError) as caught:
            reward(images(), PROMPTS)
        assert "sk-s" not in "".join(traceback.format_exception(caught.value)) + repr(reward)
        if answer[0] in (307, 401, 403):
            with pytest.raises(ConfigError, match=r"\*\*\*|xxx") as early:
                config(server, api_key_env=KEY).check()
            assert "sk-s" not in "".join(traceback.format_exception(early.value))


def test_a_run_climbs_it_by_estimates(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "sesame")
    server = serve(brightness)
    result = dno.optimize(
        "a cat",
        reward={
            "use": "vlm-judge-http",
            "base_url": server.url,
            "model": "tiny",
            "api_key_env": KEY,
        },
        iterations=2,
        steps=4,
        out=tmp_path / "run",
        settings={"gradient.samples": 2},
    )
    assert result.history[0].grad_norm[0] > 0
    assert len(server.asked) == 3 + 2 * 2
    saved = (tmp_path / "run" / "run.toml").read_text()
    assert set(server.keys) == {"Bearer sesame"}
    assert "vlm-judge-http" in saved
    assert "sesame" not in saved


def test_a_run_keeps_what_it_reached_when_the_server_fails(serve: Serve) -> None:
    def at_first(number: int, body: dict[str, Any]) -> Answer:
        return brightness(number, body) if number < 3 else refusal(404, "gone")

    server = serve(at_first)
    reward = {"use": "vlm-judge-http", "base_url": server.url, "model": "tiny"}
    result = dno.optimize(
        "a cat", reward=reward, iterations=3, steps=4, settings={"gradient.samples": 2}
    )
    assert len(result.history) == 1
    assert "answered with status 404" in str(result.error)


def test_several_threads_may_ask_at_once(serve: Serve) -> None:
    reward = judge(serve(brightness))
    before = threading.enumerate()
    expected = reward(images(), PROMPTS)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: reward(images(), PROMPTS), range(8)))
    assert all(torch.equal(one, expected) for one in found)
    left = set(threading.enumerate()) - set(before)
    assert not [thread for thread in left if thread.name.startswith("vlm-judge")]


def slow_at_first(number: int, body: dict[str, Any]) -> Answer:
    time.sleep(3 if number < len(PROMPTS) else 0)
    return brightness(number, body)


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Ctrl-C interrupts, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_does_not_wait_for_answers(serve: Serve) -> None:
    server = serve(slow_at_first)
    reward = judge(server)
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.5, signal.pthread_kill, (main, signal.SIGINT)).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        reward(images(), PROMPTS)
    assert len(server.asked) == len(PROMPTS)
    assert torch.isfinite(reward(images(), PROMPTS)).all()
    assert time.monotonic() - begun < 2.5


@pytest.mark.usefixtures("_interruptible")
def test_nor_does_a_process_that_is_interrupted(serve: Serve) -> None:
    server = serve(always(completion("yes")))
    server.delay = 20
    code = (
        f"import test_vlm_endpoint as here; here.judge({server.url!r})(here.images(), here.PROMPTS)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, stderr=subprocess.PIPE
    ) as asking:
        while len(server.asked) < len(PROMPTS) and asking.poll() is None:
            time.sleep(0.05)
        asking.send_signal(signal.SIGINT)
        begun = time.monotonic()
        _, said = asking.communicate(timeout=30)
    assert time.monotonic() - begun < 10
    assert said.strip().endswith(b"KeyboardInterrupt")


def test_a_failure_does_not_wait_for_other_answers(serve: Serve) -> None:
    def first_is_slow(number: int, body: dict[str, Any]) -> Answer:
        if "a cat" in question_in(body):
            time.sleep(3)
        return refusal(404, "gone")

    begun = time.monotonic()
    assert "answered with status 404" in failure(serve(first_is_slow))
    assert time.monotonic() - begun < 2.5


def test_the_client_is_the_official_one(serve: Serve) -> None:
    assert isinstance(judge(serve(brightness)).client, openai.OpenAI)
