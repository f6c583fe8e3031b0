"""A vision-language model behind an OpenAI-compatible HTTP endpoint."""

from __future__ import annotations

import os
from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from dno.plugin import BuildContext, Reward
from dno_vlm_judge._question import QuestionReward

KNOCK = 5.0
"""Seconds that a server has to show that it is there."""


class VLMJudgeHTTP(QuestionReward):
    """As vlm-judge, asked over HTTP: probability in [0, 1] that a model behind a server says yes, not no.

    The server is any that speaks OpenAI's chat completions with images: vLLM, SGLang, llama.cpp, a hosted service. Each
    image goes there as a PNG file. P(yes) and P(no) are sums over the 20 likeliest first tokens; one that is not among
    them counts 0. A server that returns no probabilities has its answer counted 1 or 0, which is said once.

    It has no gradient. A server may answer a little differently by how busy it is: a run then repeats but nearly.
    """

    differentiable: ClassVar[bool] = False

    base_url: str = "http://localhost:8000/v1"
    """Where the server is: all before /chat/completions. The default is vLLM's."""
    model: str = Field(min_length=1)
    """Name by which the server knows the model."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds to wait for each answer."""
    retries: int = Field(default=2, ge=0)
    """How often to ask again, after growing pauses, where there is no answer in time, no connection, or the server is
    busy or broken (status 408, 409, 429, 5xx)."""
    concurrency: int = Field(default=4, ge=1)
    """Images that are asked about side by side."""
    logprobs: bool = True
    """Whether to ask for probabilities; turn it off for a server that refuses the question because of them."""
    api_key_env: str = Field(default="OPENAI_API_KEY", min_length=1)
    """Name of the environment variable that holds the key; unset or empty, none is sent. The key itself is never
    saved."""

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        found = urlsplit(value)
        if found.scheme not in ("http", "https") or not found.hostname:
            raise ValueError("is no address of a server; give one such as http://localhost:8000/v1")
        if found.username or found.password:
            raise ValueError("holds a password, which would be saved with the run; put a key in api_key_env's variable")
        return value

    def check(self) -> None:
        """Ask the server for its models, once and for 5 seconds at most, before anything else is loaded.

        What proves nothing is let pass: a slow answer, a list without this model, no list at all.

        Raises:
            ConfigError: the server cannot be reached, or it refuses the key.
        """
        from dno_vlm_judge._endpoint import connect, knock

        with connect(self.base_url, self._key(), KNOCK, retries=0) as client:
            knock(client, self.api_key_env)

    def build(self, ctx: BuildContext) -> Reward:
        """The reward; the model stays where it is."""
        from dno_vlm_judge._endpoint import Endpoint, connect

        client = connect(self.base_url, self._key(), self.timeout, self.retries)
        return Endpoint(client, self.model, self.ask, self.concurrency, self.logprobs, self.api_key_env)

    def _key(self) -> str:
        return os.environ.get(self.api_key_env, "")
