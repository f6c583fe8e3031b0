"""Parked weights leave a GPU's memory, and come back; where there is a GPU."""

from __future__ import annotations

import pytest
import torch
from dno_builtin.samplers._ddim import DDIMSampler
from shapes import made_on, sdxl

from dno.core.costs import Beside, Room
from dno.runs.room import aside_bytes

pytestmark = [pytest.mark.slow, pytest.mark.gpu]


def test_parked_weights_leave_the_device_and_come_back() -> None:
    device = torch.device("cuda:0")
    assert aside_bytes(device) != 0, "a GPU with memory of its own"
    pipe = made_on(sdxl, device, torch.bfloat16)
    before = {name: weight.clone() for name, weight in pipe.text_encoder_2.named_parameters()}
    places = {part.data_ptr() for part in pipe.unet.parameters()}
    sampler = DDIMSampler(pipe, steps=2, memory="auto", height=256, width=256)
    sampler.make_room(Room(0, lambda shape, entries: Beside(), must_fit=False, aside=None))
    bound = sampler.bind(["a black cat"], [0])
    told = sum(bound.footprint.parked.values())
    assert told > 2**30, "both text encoders"
    with torch.no_grad():
        plain = bound(bound.noise_BN)

    allocated = torch.cuda.memory_allocated(device)
    with bound.climbing():
        assert torch.cuda.memory_allocated(device) <= allocated - told
        assert pipe.text_encoder.device.type == "cpu"
        with torch.no_grad():
            assert torch.equal(bound(bound.noise_BN), plain)
        # Another prompt: they come, and go again.
        other = sampler.bind(["a white dog"], [0])
        assert torch.cuda.memory_allocated(device) <= allocated - told + 2**26
        with torch.no_grad():
            assert not torch.equal(other(other.noise_BN), plain)
    assert torch.cuda.memory_allocated(device) >= allocated
    assert pipe.text_encoder.device == pipe.text_encoder_2.device == device
    for name, weight in pipe.text_encoder_2.named_parameters():
        assert torch.equal(weight, before[name])
    assert {part.data_ptr() for part in pipe.unet.parameters()} == places
