"""Asking a server's model about images, and saying plainly what went wrong."""

from __future__ import annotations

import base64
import io
import logging
import math
import re
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, ClassVar, Final

import openai
import torch
from PIL import Image
from torch import Tensor

from dno.plugin import ConfigError, RunError, pictures

_log = logging.getLogger("dno")

NO_KEY: Final = "none"
LIKELIEST: Final = 20
"""Tokens whose probabilities are asked for: the most that OpenAI and vLLM give."""
WORDS: Final = 5
"""Tokens of an answer that is read as text: it may begin with a line break."""


def data_url(picture: Image.Image) -> str:
    """The picture as a PNG file inside a URL."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def connect(base_url: str, key: str, timeout: float, retries: int) -> openai.OpenAI:
    """A client of the server; nothing is sent yet. Hand `headers` of it to every request."""
    # Without one, the client would look for a key in variables of its own.
    return openai.OpenAI(base_url=base_url, api_key=key or NO_KEY, timeout=timeout, max_retries=retries)


def headers(client: openai.OpenAI) -> dict[str, Any]:
    """What makes a client without a key send none: some servers refuse any that they do not know."""
    return {} if has_key(client) else {"Authorization": openai.Omit()}


def has_key(client: openai.OpenAI) -> bool:
    """Whether a key was given."""
    return client.api_key != NO_KEY


def knock(client: openai.OpenAI, key_name: str) -> None:
    """Raise `ConfigError` where the server cannot be reached, or the key is refused."""
    try:
        client.models.with_raw_response.list(extra_headers=headers(client))
    except openai.APITimeoutError:
        return
    except openai.APIConnectionError as error:
        raise ConfigError(_unreachable(client, error), at="base_url") from error
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise ConfigError(_refused(client, key_name, error), at="api_key_env") from error
    except openai.APIStatusError:  # It answers; what it makes of a question is seen when one is asked.
        return


@dataclass(frozen=True)
class Endpoint:
    """`(images, prompts) -> scores`: how much rather the server's model says yes than no."""

    client: openai.OpenAI
    model: str
    """Name by which the server knows it."""
    ask: Callable[[str], str]
    """The question about an image of this prompt."""
    concurrency: int = 4
    logprobs: bool = True
    key_name: str = "OPENAI_API_KEY"
    """Variable that the client's key was read from, to name it in errors."""
    differentiable: ClassVar[bool] = False
    _told: Lock = field(default_factory=Lock, repr=False)
    """Taken by the thread that says there are no probabilities, and never given back."""

    def __post_init__(self) -> None:
        # A run never says that it is done with a reward, and the client keeps connections open.
        weakref.finalize(self, self.client.close)

    def __call__(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """`B` scores in [0, 1] for `B x 3 x H x W` images in [0, 1] and B prompts; copies go to the server.

        Raises:
            RunError: an answer cannot be had, or is neither yes nor no.
        """
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="vlm-judge")
        try:
            scores = list(pool.map(self._score, pictures(images), prompts))
        finally:
            pool.shutdown(cancel_futures=True)
        return torch.tensor(scores, dtype=torch.float32, device=images.device)

    def _score(self, picture: Image.Image, prompt: str) -> float:
        try:
            answer = self._answer(data_url(picture), self.ask(prompt))
        except openai.APITimeoutError as error:
            wait, tries = f"{self.client.timeout:g} s", self.client.max_retries + 1
            raise RunError(
                f"{self._who} gave no answer within {wait}, asked {tries} times; raise timeout or lower concurrency"
            ) from error
        except openai.APIConnectionError as error:
            raise RunError(_unreachable(self.client, error)) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise RunError(_refused(self.client, self.key_name, error)) from error
        except openai.APIStatusError as error:
            raise RunError(self._status(error)) from error
        except (openai.OpenAIError, ValueError) as error:  # A body that is not what its header says.
            raise RunError(f"{self._strange}: {_first_line(error)}") from error
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
                    "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}],
                }
            ],
            temperature=0,
            extra_headers=headers(self.client),
            **options,
        )

    def _read(self, answer: Any) -> float:
        """The score in a chat completion; the client makes whatever JSON comes look like one."""
        try:
            (choice, *_) = answer.choices
            text = str(choice.message.content or "")
            first = choice.logprobs.content[0] if choice.logprobs and choice.logprobs.content else None
            seen = {token.token: token.logprob for token in (first, *first.top_logprobs)} if first else {}
            yes, no = _share(seen, "yes"), _share(seen, "no")
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            raise RunError(self._strange) from error
        if math.isfinite(yes + no) and yes + no > 0:
            return yes / (yes + no)
        said = re.match(r"\W*(yes|no)\b", text, re.IGNORECASE)
        if seen or not said:
            raise RunError(
                f'{self._who} answered "{_short(text)}", which is neither yes nor no; ask more plainly in question, or '
                "name another model"
            )
        if self.logprobs and self._told.acquire(blocking=False):
            _log.warning("%s gives no probabilities, so that yes counts 1 and no counts 0", self._who)
        return float(said[1].lower() == "yes")

    def _status(self, error: openai.APIStatusError) -> str:
        said = f"{self._who} answered with status {error.status_code}"
        reason = _reason(error)
        if error.status_code == 404:
            return f'{said} to a question for model "{self.model}"{reason}; correct model or base_url'
        if error.status_code == 429:
            return f"{said}, too many requests{reason}; lower concurrency or raise retries"
        if error.status_code >= 500:
            tries = self.client.max_retries + 1
            return f"{said}, asked {tries} times{reason}; look at the server, or raise retries"
        switch = "; if it knows no logprobs, set logprobs to false" if self.logprobs else ""
        return f"{said}{reason}{switch}"

    @property
    def _who(self) -> str:
        return _who(self.client)

    @property
    def _strange(self) -> str:
        return f"{self._who} answered with something that is no chat completion; correct base_url"


def _share(logprobs: dict[str, float], word: str) -> float:
    """Probability of the tokens that read `word` in any case, with or without spaces around."""
    # Some servers write tokens as their tokenizer does, with a letter of its own for a space.
    return sum(math.exp(value) for token, value in logprobs.items() if token.strip(" \t\r\n▁ĠĊ").lower() == word)


def _who(client: openai.OpenAI) -> str:
    return f"the judge at {str(client.base_url).rstrip('/')}"


def _unreachable(client: openai.OpenAI, error: openai.APIConnectionError) -> str:
    cause = _first_line(error.__cause__) if error.__cause__ else "no connection"
    return f"{_who(client)} cannot be reached ({cause}); start the server, or correct base_url"


def _refused(client: openai.OpenAI, key_name: str, error: openai.APIStatusError) -> str:
    how = f"refuses the key in {key_name}" if has_key(client) else f"wants a key, and {key_name} is not set"
    return f"{_who(client)} {how}{_reason(error)}; put one that it takes into that variable"


def _reason(error: openai.APIStatusError) -> str:
    """What the server says about it, if it says so in the usual place."""
    body = error.body.get("error", error.body) if isinstance(error.body, dict) else None
    message = body.get("message") if isinstance(body, dict) else None
    return f" ({_short(message)})" if isinstance(message, str) and message.strip() else ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 120 else f"{line[:117]}..."


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
