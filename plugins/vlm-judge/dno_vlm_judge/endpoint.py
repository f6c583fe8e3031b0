"""A vision-language model behind an OpenAI-compatible HTTP endpoint."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator

from dno.plugin import BuildContext, ConfigError, Reward
from dno_vlm_judge._key import KEY
from dno_vlm_judge._question import QuestionReward

ADDRESS = r"https?://([\w-]{1,63}(\.[\w-]{1,63})*|\[(?P<six>[\da-f:.]*:[\da-f:.]*)\])(:(?P<port>\d{1,5}))?(/[!-~]*)?"

KNOCK = 5.0
"""Seconds that a server has to show that it is there."""


class VLMJudgeHTTP(QuestionReward):
    """As vlm-judge, asked over HTTP: probability in [0, 1] that a model behind a server says yes,
    not no.

    The server is any that speaks OpenAI's chat completions with images: vLLM, SGLang, llama.cpp, a
    hosted service. Each image goes there as a PNG file. P(yes) and P(no) are sums over the 20
    likeliest first tokens; one that is not among them counts 0. A server that returns no
    probabilities has its answer counted 1 or 0, which is said once.

    It has no gradient. A server may answer a little differently by how busy it is: a run then
    repeats but nearly.
    """

    # An address or a name that is refused may be a secret in the wrong place.
    model_config = ConfigDict(hide_input_in_errors=True)
    differentiable: ClassVar[bool] = False
    personal: ClassVar[frozenset[str]] = frozenset({"base_url", "api_key_env"})

    base_url: str = "http://localhost:8000/v1"
    """Where the server is: all before /chat/completions. The default is vLLM's. Redirects are not
    followed."""
    model: str = Field(min_length=1)
    """Name by which the server knows the model."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds that a question may take in all, from the connection to the last byte of its answer;
    asked again, it has as many again. It also bounds the pause before that."""
    retries: int = Field(default=2, ge=0)
    """How often to ask again, after growing pauses, where there is no answer in time, no
    connection, or the server is busy or broken (status 408, 409, 429, 5xx)."""
    concurrency: int = Field(default=4, ge=1)
    """Images that are asked about side by side."""
    logprobs: bool = True
    """Whether to ask for probabilities; turn it off for a server that refuses the question because
    of them."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the server's key, beginning with VLM_JUDGE_;
    unless given, no key is sent. It goes to `base_url` alone, by https or to this machine, and is
    never saved."""

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        # Each is a ConfigError, as the value of any other error is shown.
        if "@" in value.partition("://")[2].partition("/")[0]:
            raise ConfigError(
                "holds a name or password, which would be saved with the run; put a key into a "
                "variable such as "
                f"{KEY}, and name that in api_key_env"
            )
        if "?" in value or "#" in value:
            raise ConfigError(
                "holds a query or fragment, which would be saved with the run; end it before the "
                "? or #"
            )
        found = re.fullmatch(ADDRESS, value, re.ASCII | re.IGNORECASE)
        if not found or (found["six"] and not _ip(found["six"])) or int(found["port"] or 0) > 65535:
            raise ConfigError(
                "is no address of a server; give one such as http://localhost:8000/v1"
            )
        return value

    @field_validator("api_key_env")
    @classmethod
    def _is_for_judges(cls, value: str | None) -> str | None:
        # So that no run.toml can have a secret sent that was put into the environment for something
        # else.
        if value is not None and not re.fullmatch(r"VLM_JUDGE_[A-Z0-9_]+", value):
            raise ConfigError(
                "should be the name of a variable that begins with VLM_JUDGE_; put the key into "
                f"one, such as {KEY}, "
                "and name that"
            )
        return value

    def check(self) -> None:
        """Ask the server for its models, once and for 5 seconds at most, before anything else is
        loaded.

        What proves nothing is let pass: a slow answer, a list without this model, no list at all.

        Raises:
            ConfigError: the server cannot be reached, is elsewhere or refuses the key; or there is
                no key where one is named, or it is not fit to be sent.
        """
        from dno_vlm_judge._endpoint import Client, knock

        with Client(self.base_url, self._key(), self.api_key_env, KNOCK, retries=0) as client:
            knock(client)

    def build(self, ctx: BuildContext) -> Reward:
        """The reward; the model stays where it is.

        Raises:
            ConfigError: there is no key where one is named, or it is not fit to be sent.
        """
        from dno_vlm_judge._endpoint import Client, Endpoint

        client = Client(self.base_url, self._key(), self.api_key_env, self.timeout, self.retries)
        return Endpoint(client, self.model, self.ask, self.concurrency, self.logprobs)

    def _key(self) -> str:
        """The key, fit to be sent to `base_url`; empty where none is named."""
        if self.api_key_env is None:
            return ""
        where = urlsplit(self.base_url)
        if where.scheme == "http" and not _is_here(str(where.hostname)):
            raise ConfigError(
                "would have the key sent unencrypted; use https, a tunnel to localhost, or no "
                "api_key_env",
                at="base_url",
            )
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise ConfigError(
                f"names {self.api_key_env}, which is not set or blank; put the key there, or "
                "leave api_key_env out",
                at="api_key_env",
            )
        if not re.fullmatch("[!-~]+", key):
            raise ConfigError(
                f"names {self.api_key_env}, which holds spaces or characters that no header may "
                "hold; put the key "
                "alone there",
                at="api_key_env",
            )
        return key


def _is_here(host: str) -> bool:
    """Whether a host is this machine, so that what is sent to it stays here."""
    ip = _ip(host)
    return host == "localhost" or (ip is not None and ip.is_loopback)


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
