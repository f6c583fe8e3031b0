"""Asking a server's model about images, and saying plainly what went wrong."""

from __future__ import annotations

import base64
import io
import logging
import math
import re
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from threading import Lock, Thread
from typing import Any, ClassVar, Final, TypeVar

import httpx2
import openai
import torch
from PIL import Image
from torch import Tensor

from dno.plugin import ConfigError, RunError, first_line, pictures
from dno_vlm_judge._key import KEY

_log = logging.getLogger("dno")

T = TypeVar("T")

LIKELIEST: Final = 20
"""Tokens whose probabilities are asked for: the most that OpenAI and vLLM give."""
WORDS: Final = 5
"""Tokens of an answer that is read as text: it may begin with a line break."""
LARGEST: Final = 4 * 2**20
"""Bytes of an answer that are read: what is asked for has some thousands."""
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 8.0
"""Seconds from one asking to the next, where the server names none; each is twice the last."""
_DEADLINE: Final = "dno_deadline"


class TooLargeError(Exception):
    """An answer that is longer than any that was asked for, or packed so that nobody can tell."""


class Bounded(httpx2.SyncByteStream):
    """What a server sends, up to its greatest size and its deadline."""

    def __init__(self, stream: httpx2.SyncByteStream, deadline: float) -> None:
        self.stream = stream
        self.deadline = deadline

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self.stream:
            size += len(part)
            if size > LARGEST:
                raise TooLargeError(f"an answer of more than {LARGEST // 2**20} MB")
            if time.monotonic() > self.deadline:
                raise httpx2.ReadTimeout("the answer took too long")
            yield part

    def close(self) -> None:
        """Read no further."""
        self.stream.close()


def within(seconds: float, call: Callable[[], T]) -> T:
    """What a call returns, if it does so in time; else it is left to itself.

    Raises:
        TimeoutError: it did not.
    """
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # It is raised where the answer is waited for.
            answer.set_exception(error)

    Thread(target=work, name="vlm-judge", daemon=True).start()
    return answer.result(seconds)


def data_url(picture: Image.Image) -> str:
    """The picture as a PNG file inside a URL."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


class Client(openai.OpenAI):
    """A client that sends what it is given, nothing that it finds in the environment, and follows
    no redirect.

    Hand its `extra` headers to every request.

    Args:
        key: sent to `base_url`, unless it is empty.
        key_name: variable that the key was read from, to name it in errors.
        limit: seconds that a question may take in all, each time that it is asked.
        retries: how often to ask again.
    """

    def __init__(
        self, base_url: str, key: str, key_name: str | None, limit: float, retries: int
    ) -> None:
        self.key, self.key_name = key, key_name
        self.limit = limit
        self.tries = retries + 1
        http = openai.DefaultHttpxClient(
            follow_redirects=False,
            # A proxy would read a key that is not encrypted.
            trust_env=not key or base_url.lower().startswith("https:"),
            event_hooks={"request": [self._begin], "response": [self._bound]},
        )
        # Without a key, the client would look for one in variables of its own.
        super().__init__(
            base_url=base_url,
            api_key=key or "unused",
            timeout=limit,
            # Asked again by `patiently`, which knows how long that may take.
            max_retries=0,
            http_client=http,
        )

    def _begin(self, request: httpx2.Request) -> None:
        request.extensions[_DEADLINE] = time.monotonic() + self.limit

    def _bound(self, response: httpx2.Response) -> None:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise TooLargeError("an answer that is packed, which nobody asked for")
        stream = response.stream
        assert isinstance(stream, httpx2.SyncByteStream)
        response.stream = Bounded(stream, response.request.extensions[_DEADLINE])

    def patiently(self, ask: Callable[[], T]) -> T:
        """What asking gives, asked again where there is hope.

        Each time may take `limit` seconds in all, whatever the server does meanwhile, and so may
        the pause before the next.

        Raises:
            TimeoutError: the last time took longer.
            TooLargeError: the answer is none that anybody should read.
            openai.OpenAIError: what came of the last time.
        """
        for number in range(self.tries):
            try:
                return within(self.limit, ask)
            except (TimeoutError, openai.OpenAIError) as error:
                # Some releases of the client take it for a lost connection, others let it pass.
                if isinstance(error.__cause__, TooLargeError):
                    raise error.__cause__ from None
                if number + 1 == self.tries or not _may_pass(error):
                    raise
                pause = min(_pause(error, number), self.limit)
            time.sleep(pause)
        raise AssertionError("it is asked at least once")

    @property
    def default_headers(self) -> dict[str, str | openai.Omit]:
        """Those of any client: OpenAI's has more, from OPENAI_ORG_ID, OPENAI_PROJECT_ID and
        OPENAI_CUSTOM_HEADERS.
        """
        return {
            "Accept": "application/json",
            # A packed answer may unpack to any size.
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": self.user_agent,
        }

    @property
    def extra(self) -> dict[str, Any]:
        """What makes a client without a key send none: some servers refuse any that they do not
        know.
        """
        return {} if self.key else {"Authorization": openai.Omit()}

    @property
    def who(self) -> str:
        """What to call the server in messages."""
        return f"the judge at {str(self.base_url).rstrip('/')}"

    def quote(self, text: str) -> str:
        """What others wrote, without the key and on one line that is not too long."""
        line = " ".join(text.split())
        line = line.replace(self.key, "***") if self.key else line
        return line if len(line) <= 120 else f"{line[:117]}..."


def knock(client: Client) -> None:
    """Raise `ConfigError` where the server cannot be reached, is elsewhere, or refuses the key."""
    try:
        client.patiently(partial(client.models.with_raw_response.list, extra_headers=client.extra))
    except (openai.APITimeoutError, TimeoutError, TooLargeError):
        return
    except openai.APIConnectionError as error:
        raise ConfigError(_unreachable(client, error), at="base_url") from None
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise ConfigError(_refused(client, error), at="api_key_env") from None
    except openai.APIStatusError as error:
        if error.response.has_redirect_location:
            raise ConfigError(_elsewhere(client, error), at="base_url") from None
        # It answers; what it makes of a question is seen when one is asked.


@dataclass(frozen=True)
class Question:
    """A picture to be asked about, and its score once there is an answer."""

    picture: Image.Image
    prompt: str
    score: Future[float] = field(default_factory=Future)


@dataclass(frozen=True)
class Endpoint:
    """`(images, prompts) -> scores`: how much rather the server's model says yes than no."""

    client: Client
    model: str
    """Name by which the server knows it."""
    ask: Callable[[str], str]
    """The question about an image of this prompt."""
    concurrency: int = 4
    logprobs: bool = True
    differentiable: ClassVar[bool] = False
    _told: Lock = field(default_factory=Lock, repr=False)
    """Taken by the thread that says there are no probabilities, and never given back."""

    def __post_init__(self) -> None:
        # A run never says that it is done with a reward, and the client keeps connections open.
        weakref.finalize(self, self.client.close)

    def __call__(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """`B` scores in [0, 1] for `B x 3 x H x W` images in [0, 1] and B prompts; copies go to the
        server.

        Raises:
            RunError: an answer cannot be had, or is neither yes nor no.
            ValueError: there are not as many prompts as images.
        """
        questions = [Question(*each) for each in zip(pictures(images), prompts, strict=True)]
        waiting = deque(questions)
        # Not of a ThreadPoolExecutor, whose threads Python waits for when it exits: an answer may
        # be a minute off.
        workers = [
            Thread(target=self._work, args=(waiting,), name="vlm-judge", daemon=True)
            for _ in range(min(self.concurrency, len(questions)))
        ]
        try:
            for worker in workers:
                worker.start()
            for score in as_completed([question.score for question in questions]):
                score.result()
        except BaseException:
            # Ctrl-C, too, is not to wait for answers. The client stays open: closing it would not
            # end a wait for one, and a connection that is being made would stay behind.
            waiting.clear()
            raise
        for worker in workers:
            worker.join()
        scores = [question.score.result() for question in questions]
        return torch.tensor(scores, dtype=torch.float32, device=images.device)

    def _work(self, waiting: deque[Question]) -> None:
        while True:
            try:
                question = waiting.popleft()
            except IndexError:
                return
            try:
                question.score.set_result(self._score(question.picture, question.prompt))
            except BaseException as error:  # It is raised where the score is waited for.
                question.score.set_exception(error)

    def _score(self, picture: Image.Image, prompt: str) -> float:
        # Errors of the client are not chained: they quote the server, which may quote the key.
        try:
            ask = partial(self._answer, data_url(picture), self.ask(prompt))
            answer = self.client.patiently(ask)
        except (openai.APITimeoutError, TimeoutError):
            wait, tries = f"{self.client.limit:g} s", self.client.tries
            raise RunError(
                f"{self.client.who} gave no answer within {wait}, asked {tries} times; raise "
                "timeout or lower "
                "concurrency"
            ) from None
        except TooLargeError as error:
            raise RunError(
                f"{self.client.who} gave {error}, which is no chat completion; correct base_url"
            ) from None
        except openai.APIConnectionError as error:
            raise RunError(_unreachable(self.client, error)) from None
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise RunError(_refused(self.client, error)) from None
        except openai.APIStatusError as error:
            raise RunError(self._status(error)) from None
        except (
            openai.OpenAIError,
            ValueError,
        ) as error:  # A body that is not what its header says.
            raise RunError(f"{self._strange}: {self.client.quote(first_line(error))}") from None
        return self._read(answer)

    def _answer(self, url: str, question: str) -> Any:
        options: dict[str, Any] = {"max_tokens": WORDS}
        if self.logprobs:
            options = {"max_tokens": 1, "logprobs": True, "top_logprobs": LIKELIEST}
        return self.client.chat.completions.create(
            model=self.model,
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": url}},
                        {"type": "text", "text": question},
                    ],
                }
            ],
            temperature=0,
            extra_headers=self.client.extra,
            **options,
        )

    def _read(self, answer: Any) -> float:
        """The score in a chat completion; the client makes whatever JSON comes look like one."""
        try:
            (choice, *_) = answer.choices
            text = str(choice.message.content or "")
            first = (
                choice.logprobs.content[0] if choice.logprobs and choice.logprobs.content else None
            )
            seen = (
                {token.token: token.logprob for token in (first, *first.top_logprobs)}
                if first
                else {}
            )
            yes, no = _share(seen, "yes"), _share(seen, "no")
        except (AttributeError, TypeError, ValueError, OverflowError):
            raise RunError(self._strange) from None
        if math.isfinite(yes + no) and yes + no > 0:
            return yes / (yes + no)
        said = re.match(r"\W*(yes|no)\b", text, re.IGNORECASE)
        if seen or not said:
            raise RunError(
                f'{self.client.who} answered "{self.client.quote(text)}", which is neither yes '
                "nor no; ask more "
                "plainly in question, or name another model"
            )
        if self.logprobs and self._told.acquire(blocking=False):
            _log.warning(
                "%s gives no probabilities, so that yes counts 1 and no counts 0", self.client.who
            )
        return float(said[1].lower() == "yes")

    def _status(self, error: openai.APIStatusError) -> str:
        if error.response.has_redirect_location:
            return _elsewhere(self.client, error)
        said = f"{self.client.who} answered with status {error.status_code}"
        reason = _reason(self.client, error)
        if error.status_code == 404:
            return (
                f'{said} to a question for model "{self.model}"{reason}; correct model or base_url'
            )
        if error.status_code == 429:
            return f"{said}, too many requests{reason}; lower concurrency or raise retries"
        if error.status_code >= 500:
            tries = self.client.tries
            return f"{said}, asked {tries} times{reason}; look at the server, or raise retries"
        switch = "; if it knows no logprobs, set logprobs to false" if self.logprobs else ""
        return f"{said}{reason}{switch}"

    @property
    def _strange(self) -> str:
        return (
            f"{self.client.who} answered with something that is no chat completion; correct "
            "base_url"
        )


def _share(logprobs: dict[str, float], word: str) -> float:
    """Probability of the tokens that read `word` in any case, with or without spaces around."""
    # Some servers write tokens as their tokenizer does, with a letter of its own for a space.
    return sum(
        math.exp(value)
        for token, value in logprobs.items()
        if token.strip(" \t\r\n▁ĠĊ").lower() == word
    )


def _may_pass(error: Exception) -> bool:
    """Whether the same question may well be answered a little later."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, (openai.APIConnectionError, TimeoutError))


def _pause(error: Exception, number: int) -> float:
    """Seconds to wait before a question is asked again: as the server says, or more each time."""
    asked: float | None = None
    if isinstance(error, openai.APIStatusError):
        asked = _retry_after(error.response.headers.get("Retry-After", ""))
    # Of a server that says 0 or less, nothing better is known.
    if asked is not None and asked > 0:
        return asked
    return min(FIRST_PAUSE * 2.0**number, LONGEST_PAUSE)


def _retry_after(text: str) -> float | None:
    """The seconds in a header: a number, or a date; None where it is neither."""
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text.strip()):
        return float(text)
    try:
        return parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None


def _unreachable(client: Client, error: openai.APIConnectionError) -> str:
    cause = client.quote(first_line(error.__cause__)) if error.__cause__ else "no connection"
    return f"{client.who} cannot be reached ({cause}); start the server, or correct base_url"


def _refused(client: Client, error: openai.APIStatusError) -> str:
    reason = _reason(client, error)
    if client.key:
        return (
            f"{client.who} refuses the key in {client.key_name}{reason}; put one that it "
            "takes into that variable"
        )
    return (
        f"{client.who} wants a key{reason}; put one into a variable such as {KEY}, and name "
        "that in api_key_env"
    )


def _elsewhere(client: Client, error: openai.APIStatusError) -> str:
    place = client.quote(error.response.headers["Location"])
    return (
        f"{client.who} sends on to {place}, where nothing is sent unasked; if you trust that, "
        "correct base_url"
    )


def _reason(client: Client, error: openai.APIStatusError) -> str:
    """What the server says about it, if it says so in the usual place."""
    body = error.body.get("error", error.body) if isinstance(error.body, dict) else None
    message = body.get("message") if isinstance(body, dict) else None
    return f" ({client.quote(message)})" if isinstance(message, str) and message.strip() else ""
