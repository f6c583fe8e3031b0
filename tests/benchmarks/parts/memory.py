"""What autograd keeps between forward and backward, by steps and memory policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from measuring import Figure, Size, exact
from torch import Tensor

from parts.iteration import POLICIES, bound


def kept_bytes(forward: Callable[[], Tensor]) -> int:
    """Memory that autograd holds between forward and backward, each storage counted once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storages.values())


def measure(size: Size) -> Iterator[Figure]:
    """Bytes by policy and steps."""
    for policy in POLICIES:
        for steps in size.memory_steps:
            sample = bound(steps=steps, memory=policy)
            noise_BN = sample.noise_BN.clone().requires_grad_()
            # A first call of its own: what no moving noise reaches is made once for all.
            with torch.no_grad():
                sample(noise_BN)
            kept = kept_bytes(lambda sample=sample, noise_BN=noise_BN: sample(noise_BN))
            text = f"`{policy}`, {steps} steps"
            yield exact(f"memory.{policy}.{steps}", text, kept / 1e6, "MB")
