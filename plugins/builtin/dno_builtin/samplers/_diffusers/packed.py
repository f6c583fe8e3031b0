"""Quantised weights: which there are, and whether gradients go through them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dno.plugin import ConfigError, is_shape

from .hooks import kept_elsewhere

_CPU_FORM = "support_avx512bf16_for_cpu"
"""Attribute of bitsandbytes' layers of four bits: whether this CPU has a faster form for them."""
_ACTIVATIONS = ("act_quant_kwargs", "activation_quantization", "input_quant_func")
"""Attributes of torchao's tensors that say how they round what goes into a layer too."""


def is_packed(weight: Tensor) -> bool:
    """Whether a weight is kept in a form of a library's own, as quantised ones are.

    Such a weight cannot be cast, and its dtype may be another than it computes in.
    """
    return type(weight) not in (nn.Parameter, Tensor) and not is_shape(weight)


def is_quantised(module: nn.Module) -> bool:
    """Whether weights of the module are quantised."""
    return any(is_packed(weight) for weight in module.parameters())


def shared_copy(weight: Tensor) -> Tensor:
    """A packed weight around the same memory, with attributes of its own.

    bitsandbytes moves what it keeps of a weight from there into the layer when that first runs.
    """
    # Weights of torchao have nothing of their own that changes.
    if not issubclass(type(weight), nn.Parameter):
        return weight
    made = torch.Tensor._make_subclass(type(weight), weight.data, False)
    vars(made).update(vars(weight))
    return made


def scratch_tensors(module: nn.Module) -> Iterator[Tensor]:
    """What layers of bitsandbytes keep beside their weights: their weights once more."""
    for part in module.modules():
        for value in vars(part).values():
            if type(value).__module__.startswith("bitsandbytes"):
                for inner in vars(value).values():
                    if isinstance(inner, Tensor):
                        yield inner


def keep_gradients(view: nn.Module) -> None:
    """Keep layers of bitsandbytes from turning their weights into a form that has no gradient.

    Those of four bits do so on some CPUs, at the first call without a gradient.
    """
    for part in view.modules():
        if _CPU_FORM in vars(part):
            vars(part)[_CPU_FORM] = False


def check_packed(name: str, module: nn.Module) -> None:
    """Raise `ConfigError` where quantised weights let no gradient through.

    Args:
        name: what the pipeline calls the module.
        module: one of its parts.
    """
    kept = [tensor for _, tensor in kept_elsewhere(module)]
    away = [weight for weight in module.parameters() if weight.is_meta]
    if any(is_packed(weight) for weight in (*kept, *away)):
        raise ConfigError(
            f"the pipeline's {name} has quantised weights that sequential offloading keeps "
            "elsewhere; load it without offloading",
            at="model",
        )

    for weight in module.parameters():
        state = getattr(weight, "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise ConfigError(
                f"the pipeline's {name} has had its weights of four bits turned into a form for "
                "the CPU that has no gradient, as its first call there does; load it anew",
                at="model",
            )
        if any(getattr(weight, attribute, None) is not None for attribute in _ACTIVATIONS):
            raise ConfigError(
                f"the pipeline's {name} rounds what goes into its layers as well as its weights "
                f"({type(weight).__name__}), which has no gradient; quantise its weights alone, "
                "with torchao's Int8WeightOnlyConfig, say",
                at="model",
            )


def check_placed(
    name: str, module: nn.Module, device: torch.device, dtype: torch.dtype | None
) -> None:
    """Raise `ConfigError` where quantised weights would have to be moved or cast.

    Args:
        name: what the pipeline calls the module.
        module: one of its parts.
        device: where it is to compute.
        dtype: what it is to compute in; None: as it does.
    """
    for weight in module.parameters():
        if not is_packed(weight):
            continue
        kind = type(weight).__name__
        own_place = weight.device
        if own_place.type != device.type or device.index not in (None, own_place.index):
            raise ConfigError(
                f"the pipeline's {name} has quantised weights ({kind}) on {own_place}, which "
                f"stay where they are; load it on {device}, or choose device={own_place}",
                at="device",
            )
        own = getattr(module, "dtype", dtype)
        if dtype not in (None, own):
            raise ConfigError(
                f"the pipeline's {name} has quantised weights ({kind}) that compute in "
                f"{_name(own)}, and cannot be cast to {_name(dtype)}; leave dtype out",
                at="dtype",
            )


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
