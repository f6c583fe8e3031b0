"""Which tensors of a file reach which weights, whatever a library does in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class Provenance(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows tensors through the operations of this thread, by the memory they are in.

    Args:
        tensors: those to follow, by name.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sources: dict[int, frozenset[str]] = {}
        # Memory that is given back could be taken for what comes there next.
        self._kept: list[Tensor] = []
        self._read: set[str] = set()

        for name, tensor in tensors.items():
            self._add(tensor, frozenset([name]))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))

        sources: frozenset[str] = frozenset()
        for tensor in _tensors_in((args, kwargs)):
            sources |= self._of(tensor)
        if sources:
            made = list(_tensors_in(result))
            for tensor in made:
                self._add(tensor, sources)
            # A number that was taken out of a tensor, as scales are.
            if not made:
                self._read |= sources
        return result

    def used(self, modules: Iterable[nn.Module]) -> set[str]:
        """Names of the tensors that reached a weight or buffer of these modules, or were read."""
        found = set(self._read)
        for module in modules:
            for weight in (*module.parameters(), *module.buffers()):
                found |= self._of(weight)
        return found

    def _of(self, tensor: Tensor) -> frozenset[str]:
        return self._sources.get(_pointer(tensor), frozenset())

    def _add(self, tensor: Tensor, sources: frozenset[str]) -> None:
        pointer = _pointer(tensor)
        if pointer:
            self._kept.append(tensor)
            self._sources[pointer] = self._sources.get(pointer, frozenset()) | sources


def _pointer(tensor: Tensor) -> int:
    """Where a tensor's memory is; 0 where it has none."""
    if tensor.device.type == "meta":
        return 0
    return tensor.untyped_storage().data_ptr()


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors_in(item)
    elif isinstance(value, dict):
        yield from _tensors_in(list(value.values()))
