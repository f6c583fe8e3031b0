"""What each form of call of a pipeline's networks and decoders answers, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dno.plugin import Cost, is_shape, kept_by, out_of_memory, outlined, traced

from .memory import Level, at_level
from .modules import Function, without_gradient
from .nests import each, tensors
from .reuse import DEEP


class Ledger:
    """Forms of calls and their costs, for all that a sampler binds.

    A network runs once for each form of its arguments. Where weights are shapes it is traced, and
    answers zeros.

    Args:
        pipe: the sampler's private pipeline.
        dtype: what its networks compute in.
    """

    def __init__(self, pipe: Any, dtype: torch.dtype) -> None:
        parts = {name: part for name, part in vars(pipe).items() if isinstance(part, nn.Module)}
        self.weights: Mapping[str, int] = {name: _bytes_of(part) for name, part in parts.items()}
        """Bytes of each part of the pipeline."""
        every = [tensor for part in parts.values() for tensor in _weights_of(part)]
        self.weightless: bool = any(is_shape(tensor) for tensor in every)
        """Whether there are only shapes."""
        self._dtype = dtype
        self._places: set[int] = set()
        if not self.weightless:
            self._places = {tensor.untyped_storage().data_ptr() for tensor in every}

        self._answers: dict[Any, Any] = {}
        self._kept: dict[Any, int] = {}
        self._calls: dict[Any, tuple[Function, Any, Any]] = {}
        self._costs: dict[Any, Cost] = {}
        self._passing: dict[Any, int] = {}

    def answer(self, function: Function, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The form of a call, and an answer of that form."""
        form = id(function), repr(_form(args)), repr(_form(kwargs))
        differentiable = any(tensor.requires_grad for tensor in tensors((args, kwargs)))
        if differentiable and form not in self._kept:
            with at_level("keep"):
                self._measure(form, function, args, kwargs)
        elif form not in self._answers:
            if self.weightless:
                _, self._answers[form] = traced(function, args, kwargs)
            else:
                self._answers[form] = without_gradient(function, args, kwargs)
        return form, self._answers[form]

    def _measure(self, form: Any, function: Function, args: Any, kwargs: Any) -> None:
        # Not the numbers, which may be large: only their shapes are asked for again.
        self._calls[form] = function, each(args, outlined), each(kwargs, outlined)
        if not self.weightless:
            try:
                found = kept_by(function, args, kwargs, self._places)
            except Exception as error:
                if out_of_memory(error):
                    raise
                # A search needs no gradient of a network that has none.
                found = 0, without_gradient(function, args, kwargs)
            self._kept[form], self._answers[form] = found
            return
        cost, self._answers[form] = traced(function, args, kwargs)
        self._costs[form, "keep"] = cost
        self._kept[form] = cost.kept

    def kept(self, form: Any) -> int:
        """Bytes that a call of this form keeps where it keeps all."""
        return self._kept[form]

    def taken(self, form: Any) -> int:
        """Bytes of a call's arguments that are its own, in the dtype that it computes in."""
        _, args, kwargs = self._calls[form]
        named = {name: value for name, value in kwargs.items() if name != DEEP}
        own = sum(self._own_bytes(tensor) for tensor in tensors((args, named)))
        return own + self._deep_bytes(form, kwargs.get(DEEP))

    def _deep_bytes(self, form: Any, deep: Any) -> int:
        """Bytes of deep features that a call is given, or that it makes for later ones.

        Where they must be cast, each call that is given them has a copy of its own; else they are
        one tensor for all of those, which is counted where it is made.
        """
        made = deep is True
        features = self._answers[form][1] if made else deep
        if not isinstance(features, Tensor):
            return 0
        is_cast = features.dtype != self._dtype
        return 0 if made == is_cast else features.numel() * self._dtype.itemsize

    def _own_bytes(self, tensor: Tensor) -> int:
        if not tensor.is_floating_point():
            return 0
        size = tensor.numel() * self._dtype.itemsize
        # What no gradient depends on is one tensor for all calls, unless it must be cast.
        return size if tensor.requires_grad or tensor.dtype != self._dtype else 0

    def answered(self, form: Any) -> int:
        """Bytes of a call's answer, deep features for later calls left out."""
        _, _, kwargs = self._calls[form]
        answer = self._answers[form]
        if kwargs.get(DEEP) is True:
            answer, _ = answer
        return sum(tensor.nbytes for tensor in tensors(answer))

    def passing(self, form: Any) -> int:
        """Most bytes at once in a call of this form without a gradient.

        It may take seconds to find out.
        """
        if form not in self._passing:
            function, args, kwargs = self._calls[form]
            args, kwargs = each(args, Tensor.detach), each(kwargs, Tensor.detach)
            with at_level("keep"):
                cost, _ = traced(function, args, kwargs)
            self._passing[form] = cost.peak
        return self._passing[form]

    def cost(self, form: Any, level: Level, *, decodes: bool) -> Cost:
        """What a call of this form costs at a level.

        It may take seconds to find out.
        """
        key = form, level
        if key not in self._costs:
            if level == "keep" or decodes:
                self._costs[key] = self._traced(form, level)
            else:
                self._costs[key] = self._again(form, level)
        return self._costs[key]

    def _again(self, form: Any, level: Level) -> Cost:
        """The cost of a network's call that is computed once more."""
        taken = self.taken(form) + self.answered(form)
        if level == "blocks":
            cost = self._traced(form, level)
            return replace(cost, kept=taken, peak=cost.peak + taken)

        whole = self.cost(form, "keep", decodes=False)
        return Cost(taken, whole.peak + taken, whole.forward, whole.forward + whole.backward)

    def _traced(self, form: Any, level: Level) -> Cost:
        function, args, kwargs = self._calls[form]
        with at_level(level):
            cost, _ = traced(function, args, kwargs)
        return cost


def _weights_of(part: nn.Module) -> list[Tensor]:
    return [*part.parameters(), *part.buffers()]


def _bytes_of(part: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in _weights_of(part))


def _form(value: Any) -> Any:
    """What of a network's argument can decide the form of its answer."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, dict):
        return {key: _form(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_form(inner) for inner in value]
    if isinstance(value, (bool, int, str, type(None))):
        return value
    return type(value)
