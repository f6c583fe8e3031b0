"""Calls followed by the shapes of their tensors: bytes alive at once, and arithmetic."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.flop_counter import flop_registry

from dno.core.costs import Cost


@functools.cache
def shapes() -> FakeTensorMode:
    """The mode in which tensors are shapes; one for all, since those of two do not mix."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def is_fake(tensor: Tensor) -> bool:
    """Whether a tensor is a shape."""
    return isinstance(tensor, FakeTensor)


def trace(
    call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Cost, Any]:
    """See `dno.core.shapes.traced`."""
    mode = shapes()
    args, kwargs = _nest((args, kwargs), outline)
    leaves = [leaf for leaf in _tensors((args, kwargs)) if leaf.requires_grad]

    alive = _Alive()
    # Function modes of callers, such as a noise tape, have nothing to see here.
    with torch._C.DisableTorchFunction(), mode, alive, torch.enable_grad():
        answer = call(*args, **kwargs)
        kept = alive.now
        forward = alive.flop

        outputs = [tensor for tensor in _tensors(answer) if tensor.requires_grad]
        if outputs and leaves:
            slopes = [torch.ones_like(tensor) for tensor in outputs]
            torch.autograd.grad(outputs, leaves, slopes, allow_unused=True)
    cost = Cost(kept, alive.peak, forward, alive.flop - forward)
    return cost, _nest(answer, _zeros)


def _nest(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same nest, with `function` of its tensors."""
    return tree_map(lambda one: function(one) if isinstance(one, Tensor) else one, value)


def _tensors(value: Any) -> list[Tensor]:
    return [one for one in tree_iter(value) if isinstance(one, Tensor)]


def outline(tensor: Tensor) -> Tensor:
    """See `dno.core.shapes.outlined`."""
    if is_fake(tensor):
        return tensor.detach().requires_grad_(tensor.requires_grad)
    if not tensor.is_floating_point() and tensor.numel() < 64:
        return tensor
    made = shapes().from_tensor(tensor.detach())
    return made.requires_grad_(tensor.requires_grad)


def _zeros(tensor: Tensor) -> Tensor:
    return torch.zeros(tuple(tensor.shape), dtype=tensor.dtype)


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages that operations made and that are still there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self.flop = 0.0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation, and count what it made."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)

        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flop += count(*args, **kwargs, out_val=out)

        outs = out if isinstance(out, (tuple, list)) else (out,)
        returns = func._schema.returns
        for index, one in enumerate(outs):
            # Views, and what was written in place, are somebody's already: often a weight's.
            if returns[min(index, len(returns) - 1)].alias_info is None:
                for tensor in _tensors(one):
                    self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()

        def gone(_: object) -> None:
            self.now -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def kept(
    call: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    weights: Collection[int],
) -> tuple[int, Any]:
    """See `dno.core.shapes.kept_by`."""
    seen: dict[int, StorageWeakRef] = {}
    total = 0

    def drop(tensor: Tensor) -> Any:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() in weights:
            return None
        # Held weakly: its place in memory may be another's next, but not its handle.
        reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        if reference.cdata not in seen:
            seen[reference.cdata] = reference
            total += storage.nbytes()
        return None

    def never(_: Any) -> Any:
        raise AssertionError("there is no backward pass")

    args, kwargs = _nest((args, kwargs), _leaf)
    with (
        torch._C.DisableTorchFunction(),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(drop, never),
    ):
        answer = call(*args, **kwargs)
    return total, _nest(answer, Tensor.detach)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)
