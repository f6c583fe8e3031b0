"""Whether a model's deep features can be reused, told from its files or its parts: no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dno.plugin import ConfigError

UNET: Final = "UNet2DConditionModel"
"""The class of networks whose deep features can be reused, that of Stable Diffusion."""

_NETWORKS: Final = re.compile("UNet|Unet|Transformer|Prior")
"""What the classes of denoising networks have in their names."""


def check_index(index: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where a pipeline's index names no network whose features can be reused.

    Args:
        index: what `model_index.json` holds. Where it names no network at all, as that of a
            pipeline made of others may, the loaded parts will tell.
    """
    classes = [part[1] for part in index.values() if isinstance(part, list) and len(part) == 2]
    networks = [name for name in classes if isinstance(name, str) and _NETWORKS.search(name)]
    if networks and UNET not in networks:
        raise _other(networks)


def check_networks(networks: Sequence[Any]) -> None:
    """Raise `ConfigError` unless a UNet with deep features is among a pipeline's networks."""
    unets = [network for network in networks if is_unet(network)]
    if not unets:
        raise _other([type(network).__name__ for network in networks])
    for unet in unets:
        _check_levels(unet)


def is_unet(part: Any) -> bool:
    """Whether a pipeline's part is of the class whose features can be reused."""
    # By name: importing the class takes time, and whoever has one has it imported.
    return any(cls.__name__ == UNET for cls in type(part).__mro__)


def skips_of(block: Any) -> int:
    """How many answers a down block of a UNet hands across to the up blocks."""
    return len(block.resnets) + len(block.downsamplers or ())


def _check_levels(unet: Any) -> None:
    given = 1 + sum(skips_of(block) for block in unet.down_blocks)
    taken = sum(len(block.resnets) for block in unet.up_blocks)
    if len(unet.up_blocks) > 1 and given == taken:
        return
    kinds = sorted({type(block).__name__ for block in unet.up_blocks})
    raise ConfigError(
        f"needs a UNet of two levels or more with a skip for each layer; this model's has "
        f"{len(unet.up_blocks)} ({', '.join(kinds)}), {given} skips and {taken} layers that take "
        "one; leave reuse out",
        at="reuse",
    )


def _other(networks: Sequence[str]) -> ConfigError:
    """What is said to a model with these networks."""
    return ConfigError(
        f"holds deep features of a {UNET}, the network of Stable Diffusion 1.x, 2.x and XL, and "
        f"this model has a {' and a '.join(networks) or 'network of another kind'}; leave reuse "
        "out, and take fewer steps, or more of them on a coarser grid (--coarse), where an "
        "iteration must cost less",
        at="reuse",
    )
