"""Any image-text-to-text model of transformers, asked a question that it answers with yes or no."""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as transformers_logging

from dno.plugin import ConfigError, RunError, first_line, pictures

_log = logging.getLogger("dno")

_READING = Lock()
"""Held while a processor reads: fast tokenizers refuse two threads at once."""
UNSURE = 0.01
"""Share of yes and no in all answers below which their ratio says little."""


@dataclass(frozen=True)
class YesNo:
    """`(images, prompts) -> scores`: how much rather the model says yes than no.

    Images are judged one at a time: questions of several lengths would have to be padded, and a
    score would then depend on its neighbours.
    """

    model: Any
    """Of `AutoModelForImageTextToText`, frozen."""
    processor: Any
    ask: Callable[[str], str]
    """The question about an image of this prompt."""
    yes: Tensor
    """Ids of the tokens that read yes."""
    no: Tensor
    differentiable: bool
    """Whether images are shown as tensors, and the score has a gradient."""
    marks: Sequence[str] = ()
    """What is no text to the model, such as `<image>`, which stands for one."""
    chat_template: str | None = None
    _told: Lock = field(default_factory=Lock, repr=False)
    """Taken when it is said that the model is unsure, and never given back."""

    def __call__(self, images: Tensor, prompts: Sequence[str], /) -> Tensor:
        """`B` scores in [0, 1] for `B x 3 x H x W` images in [0, 1] and B prompts.

        Raises:
            RunError: a question holds one of the model's own marks.
            ValueError: there are not as many prompts as images.
        """
        seen = list(images) if self.differentiable else pictures(images)
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            scores = [
                self._score(image, prompt) for image, prompt in zip(seen, prompts, strict=True)
            ]
        return torch.stack(scores).to(images.device)

    def inputs(self, image: Tensor | Image.Image, prompt: str) -> Any:
        """What the model reads, on its device: the processor's tensors by name, one row each.

        Raises:
            RunError: the question holds one of the model's own marks.
        """
        question = self.ask(prompt)
        if mark := next((mark for mark in self.marks if mark in question), None):
            raise RunError(
                f'the question about "{prompt}" holds {mark}, which this model takes for a mark '
                "of its own and not for "
                "text; leave it out"
            )
        content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        with _READING:
            read = self.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=self.chat_template,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"do_rescale": False} if self.differentiable else {},
            )
        return read.to(self.model.device, dtype=self.model.dtype)

    def _score(self, image: Tensor | Image.Image, prompt: str) -> Tensor:
        logits_V = next_token_logits(self.model, self.inputs(image, prompt)).float()
        yes, no = logits_V[self.yes].logsumexp(0), logits_V[self.no].logsumexp(0)
        share = (torch.logaddexp(yes, no) - logits_V.logsumexp(0)).detach().exp().item()
        if share < UNSURE and self._told.acquire(blocking=False):
            _log.warning(
                "%s gives yes and no together %.2g of its belief in what comes next, so that "
                "their ratio says little; "
                "another question may ask for them more plainly",
                type(self.model).__name__,
                share,
            )
        return torch.sigmoid(yes - no)


def next_token_logits(model: Any, inputs: Any) -> Tensor:
    """`V` logits of what the model says first, for the inputs of one image."""
    options: dict[str, Any] = {}
    known = inspect.signature(model.forward).parameters
    if "logits_to_keep" in known:
        options["logits_to_keep"] = 1
    start = getattr(model.generation_config, "decoder_start_token_id", None)
    if "decoder_input_ids" in known and start is not None:
        options["decoder_input_ids"] = torch.full((1, 1), start, device=model.device)
    logits: Tensor = model(**inputs, use_cache=False, **options).logits[0, -1]
    return logits


def tokens_that_read(tokenizer: Any, word: str) -> list[int]:
    """Ids of the tokens that read `word` in any case, with or without spaces around, in ascending
    order.
    """
    # Decoding a whole vocabulary takes seconds; its spellings of a space are not letters.
    alike = [
        index
        for piece, index in tokenizer.get_vocab().items()
        if re.sub(r"[^a-z]", "", str(piece).lower()) == word
    ]
    return sorted(index for index in alike if tokenizer.decode([index]).strip().lower() == word)


def marks_of(processor: Any) -> list[str]:
    """What a question must not hold, as the model takes it for an image or an end and not for
    text.
    """
    special = [
        token.content
        for token in processor.tokenizer.added_tokens_decoder.values()
        if token.special
    ]
    found = {*special, str(getattr(processor, "image_token", None) or "")}
    # Some tokenizers pad with "!".
    return sorted(mark for mark in found if len(mark) > 1)


def load(
    model: str,
    revision: str | None,
    dtype: torch.dtype,
    device: torch.device,
    ask: Callable[[str], str],
    chat_template: str | None,
    *,
    exact: bool,
) -> YesNo:
    """The judge in a folder or behind a hub id; it is asked once how it reads an image before its
    weights are loaded.

    Raises:
        ConfigError: the model or its processor cannot be loaded, or cannot be asked for a yes or no
            about an image.
    """
    with _loading(model, "the processor of an image-text-to-text model"):
        processor = AutoProcessor.from_pretrained(model, revision=revision, trust_remote_code=False)
    if (
        getattr(processor, "image_processor", None) is None
        or getattr(processor, "tokenizer", None) is None
    ):
        raise ConfigError(f'"{model}" has no processor that reads both images and text', at="model")
    if not (chat_template or processor.chat_template):
        raise ConfigError(
            f'"{model}" has no chat template, so nothing tells how to ask it; give one in '
            "chat_template",
            at="model",
        )
    words = {word: tokens_that_read(processor.tokenizer, word) for word in ("yes", "no")}
    for word, ids in words.items():
        if not ids:
            raise ConfigError(
                f'"{model}" has no token that reads "{word}", so that it cannot answer in one',
                at="model",
            )
    with _loading(model, "an image-text-to-text model"):
        network, found = AutoModelForImageTextToText.from_pretrained(
            model,
            revision=revision,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if missing := sorted(found["missing_keys"]):
        raise ConfigError(
            f'"{model}" lacks {len(missing)} of its weights, such as {missing[0]}', at="model"
        )
    network = network.eval().requires_grad_(False).to(device)
    yes, no = (torch.tensor(ids, device=device) for ids in words.values())
    judge = YesNo(network, processor, ask, yes, no, exact, marks_of(processor), chat_template)
    _try(judge, model)
    return judge


def _try(judge: YesNo, model: str) -> None:
    """Refuse a processor that cannot show the model a question with an image, or that cuts the
    gradient.
    """
    grey = torch.full((3, 64, 64), 0.5, requires_grad=True)
    image = grey if judge.differentiable else Image.new("RGB", (64, 64))
    remedy = 'use "vlm-judge", which shows it pictures and is climbed by estimates'
    try:
        with torch.enable_grad():
            inputs = judge.inputs(image, "a cat")
    except RunError as error:
        raise ConfigError(str(error), at="question") from None
    except Exception as error:  # Each processor and each template has its own.
        what = f"tensors with a gradient ({first_line(error)}); {remedy}"
        what = what if judge.differentiable else f"images: {first_line(error)}"
        raise ConfigError(f'"{model}" cannot be asked about {what}', at="model") from error
    floats = [
        value
        for value in inputs.values()
        if isinstance(value, Tensor) and value.is_floating_point()
    ]
    if not floats:
        raise ConfigError(
            f'"{model}" is not shown the image by its chat template; give another one', at="model"
        )
    if judge.differentiable and not any(value.requires_grad for value in floats):
        raise ConfigError(f'"{model}" has a processor that cuts the gradient; {remedy}', at="model")


@contextlib.contextmanager
def _loading(model: str, what: str) -> Iterator[None]:
    """Without warnings, log lines and progress bars, and with any error told as one sentence."""
    verbosity, bars = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImportError as error:
        raise ConfigError(
            f'"{model}" needs a library to be loaded as {what}: {_first_sentence(error)}; install '
            "it, or name another "
            "model",
            at="model",
        ) from error
    except Exception as error:  # What goes wrong in there has many types, most of them plain ones.
        raise ConfigError(
            f'"{model}" could not be loaded as {what}: {first_line(error)}', at="model"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _first_sentence(error: BaseException) -> str:
    return " ".join(str(error).split()).partition(". ")[0]
