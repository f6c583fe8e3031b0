"""What a climb does not call lies elsewhere, and nobody can tell but by the memory.

There is one device here, and weights that are parked are copied on it; all else is as it is beside
a GPU: their memory is let go of, by the sampler and by the live pipeline.
"""

from __future__ import annotations

import copy
import itertools
import pickle
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from dno_builtin.samplers._ddim import DDIMSampler
from dno_builtin.samplers._diffusers import parking
from dno_builtin.samplers._diffusers.parking import ParkingLot
from dno_builtin.samplers._pipeline import PipelineSampler
from dno_builtin.samplers.pipeline import Pipeline
from tiny_families import FAMILIES, tiny_call, tiny_pipeline
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import CLIPConfig

from dno.core.costs import Beside, Room
from dno.core.surroundings import alone
from dno.plugin import hookimpl, quiet
from dno.registry.configs import BuildContext
from dno.runs import room as rooms
from dno.runs.load import load
from dno.runs.run import run
from dno.runs.run_config import RunConfig
from dno.testing.models import tiny_stable_diffusion

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SLACK = 2**28
"""Bytes that the planner leaves free."""
STEPS = 3


class Memory:
    """Where the weights of a module are now.

    Args:
        module: what is followed.
    """

    def __init__(self, module: nn.Module) -> None:
        self._pieces = [
            StorageWeakRef(weight.untyped_storage())  # type: ignore[no-untyped-call]
            for weight in (*module.parameters(), *module.buffers())
        ]

    @property
    def is_let_go(self) -> bool:
        """Whether nobody holds it any more."""
        return all(piece.expired() for piece in self._pieces)


def sampler(pipe: Any, memory: str = "auto", free: int | None = SLACK, **room: Any) -> Any:
    """A sampler of a live pipeline, with so much memory beside its weights."""
    made = PipelineSampler(pipe, steps=STEPS, memory=memory, height=16, width=16)
    room = {"aside": None} | room
    made.make_room(Room(free, lambda shape, entries: Beside(), must_fit=False, **room))
    return made


def slope(bound: Any) -> tuple[Tensor, Tensor]:
    noise_BN = bound.noise_BN.clone().requires_grad_()
    images = bound(noise_BN)
    weights = torch.linspace(-1, 1, images[0].numel()).view_as(images[0])
    return images.detach(), torch.autograd.grad((images * weights).sum(), noise_BN)[0]


def drawn(bound: Any) -> Tensor:
    with torch.no_grad():
        images: Tensor = bound(bound.noise_BN)
    return images


def numbers(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all weights."""
    return {name: weight.detach().clone() for name, weight in module.state_dict().items()}


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def encoders(pipe: Any) -> dict[str, Any]:
    return {
        name: part
        for name, part in vars(pipe).items()
        if "text_encoder" in name and isinstance(part, nn.Module)
    }


def assert_given_back(pipe: Any, before: Mapping[str, Mapping[str, Tensor]]) -> None:
    """A live pipeline has its numbers, nobody's hooks, and shares them with nobody but views."""
    for name, part in encoders(pipe).items():
        assert same(part.state_dict(), before[name]), name
        assert not any(module._forward_pre_hooks for module in part.modules()), name
        assert all(weight.requires_grad for weight in part.parameters()), name


@pytest.mark.parametrize("family", FAMILIES)
def test_no_call_of_a_bound_map_asks_what_can_be_parked(family: str) -> None:
    pipe: Any = tiny_pipeline(family)
    call = dict(tiny_call(family))
    names = {"num_inference_steps": "steps", "guidance_scale": "guidance_scale"}
    names |= {side: side for side in ("height", "width")}
    own = {ours: call.pop(theirs) for theirs, ours in names.items() if theirs in call}
    for given in ("prompt", "output_type", "return_dict", "generator"):
        call.pop(given, None)
    config = Pipeline(model=pipe, options=call, **own)
    made = config.build(BuildContext(CPU, torch.float32))
    bound: Any = made.bind(["a cat"], [1])
    one = getattr(bound, "_maps", [bound])[0]
    lot: ParkingLot = made._spare.lot
    sizes = lot.sizes(one.idle)

    plain = drawn(bound)
    assert set(encoders(pipe)) <= set(sizes), "what encodes prompts is idle"
    left = {name: Memory(getattr(pipe, name)) for name in sizes}
    with lot.parked(sizes):
        assert torch.equal(drawn(bound), plain)
        assert all(memory.is_let_go for memory in left.values()), "something was called"
    assert torch.equal(drawn(bound), plain)


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_the_gradient_is_the_same_bits_and_the_memory_is_let_go(kind: str) -> None:
    pipe: Any = tiny_pipeline(kind)
    before = {name: numbers(part) for name, part in encoders(pipe).items()}
    images, grad = slope(sampler(pipe, "keep").bind(["a cat"], [1]))

    made = sampler(pipe)
    bound = made.bind(["a cat"], [1])
    assert set(bound.footprint.parked) == set(encoders(pipe))
    memories = [Memory(part) for part in encoders(pipe).values()]
    with bound.climbing():
        assert all(memory.is_let_go for memory in memories)
        found_images, found_grad = slope(bound)
        # Whoever looks at the live pipeline finds its numbers.
        assert all(same(part.state_dict(), before[name]) for name, part in encoders(pipe).items())
    assert torch.equal(found_images, images)
    assert torch.equal(found_grad, grad)
    assert_given_back(pipe, before)

    # They are one memory again: what is changed in place is seen.
    with torch.no_grad():
        for part in encoders(pipe).values():
            for weight in part.parameters():
                weight.mul_(0.5)
    assert not torch.equal(drawn(made.bind(["a cat"], [1])), images)
    assert torch.equal(
        drawn(made.bind(["a cat"], [1])), drawn(sampler(pipe, "keep").bind(["a cat"], [1]))
    )


def test_it_comes_before_anything_is_computed_once_more() -> None:
    pipe: Any = tiny_pipeline("sd3")
    choice = sampler(pipe, "keep").bind(["a cat"], [1])._memory.choice
    whole, whole_flop = choice.peak, choice.flop
    idle = sum(
        sum(weight.nbytes for weight in part.parameters()) for part in encoders(pipe).values()
    )

    ample = sampler(pipe, free=SLACK + whole).bind(["a cat"], [1])
    assert not ample.footprint.parked
    assert ample.footprint.passes == 2
    tight = sampler(pipe, free=SLACK + whole - idle // 2).bind(["a cat"], [1])
    assert set(tight.footprint.parked) == set(encoders(pipe))
    assert tight.footprint.passes == 2
    assert "text_encoder_3 on the CPU once prompts are bound" in tight.footprint.policy
    assert tight.footprint.missing == 0
    found = tight.footprint
    assert found.peak >= found.binding > sum(found.weights.values())
    # Where it would save no work, as without it the decoder is computed once more too.
    tighter = sampler(pipe, free=SLACK + whole - 2 * idle).bind(["a cat"], [1])
    assert not tighter.footprint.parked
    assert tighter.footprint.flop > found.flop == whole_flop


def test_nothing_is_parked_where_it_is_not_to_be() -> None:
    pipe: Any = tiny_pipeline("sd3")

    def parked(**given: Any) -> set[str]:
        return set(sampler(pipe, **given).bind(["a cat"], [1])._memory.parked)

    assert parked() == set(encoders(pipe))
    # On a CPU there is no other memory.
    assert parked(aside=0) == set()
    assert parked(aside=100_000) == {"text_encoder_3"}
    for memory in ("keep", "recompute"):
        assert parked(memory=memory) == set()
    assert parked(free=None) == set()
    assert rooms.aside_bytes(CPU) == 0


def test_whoever_calls_a_parked_part_has_it_back_first() -> None:
    pipe: Any = tiny_pipeline("flux")
    call = {"num_inference_steps": 1, "output_type": "pt", **tiny_call("flux")}
    pipe.set_progress_bar_config(disable=True)

    def own() -> Tensor:
        images: Tensor = pipe("a dog", generator=torch.Generator().manual_seed(0), **call).images
        return images

    plain = own()
    made = sampler(pipe)
    cat, dog = (drawn(made.bind([f"a {name}"], [1])) for name in ("cat", "dog"))
    assert not torch.equal(cat, dog)
    bound = made.bind(["a cat"], [1])
    with bound.climbing():
        memory = Memory(pipe.text_encoder)
        # Another prompt: they come, and go again.
        assert torch.equal(drawn(made.bind(["a dog"], [1])), dog)
        assert memory.is_let_go
        memory = Memory(pipe.text_encoder)
        view = made._pipe.text_encoder
        assert all(weight.isnan().all() for weight in view.parameters())
        assert torch.equal(own(), plain)
        assert all(weight.isfinite().all() for weight in view.parameters()), "it did not come back"
        assert torch.equal(drawn(bound), cat)
    assert not any(part._forward_pre_hooks for part in pipe.text_encoder.modules())
    # Who called it once may call it again: it stayed until the climb was over.
    assert memory.is_let_go
    memory = Memory(pipe.text_encoder)
    with bound.climbing():
        assert memory.is_let_go


def test_climbs_and_samplers_side_by_side_do_not_disturb_each_other() -> None:
    pipe: Any = tiny_pipeline("flux")
    before = {name: numbers(part) for name, part in encoders(pipe).items()}
    one = sampler(pipe)
    cat = one.bind(["a cat"], [1])
    plain = drawn(cat)
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(cat.climbing())
        # A second sampler of the same pipeline, while its parts are away.
        other = sampler(pipe)
        assert other.device == CPU
        same_cat = other.bind(["a cat"], [1])
        assert torch.equal(drawn(same_cat), plain)
        second.enter_context(same_cat.climbing())
        first.close()
        # What the second has claimed stays away for it.
        view = other._pipe.text_encoder
        assert all(weight.isnan().all() for weight in view.parameters())
        assert torch.equal(drawn(one.bind(["a cat"], [1])), plain)
        assert all(weight.isnan().all() for weight in view.parameters())
    assert_given_back(pipe, before)
    for made in (one, other):
        for ours, theirs in zip(
            made._pipe.text_encoder.parameters(), pipe.text_encoder.parameters(), strict=True
        ):
            assert ours.data_ptr() == theirs.data_ptr()


def test_threads_park_and_need_one_part_at_once() -> None:
    pipe: Any = tiny_pipeline("flux")
    made = sampler(pipe)
    lot: ParkingLot = made._spare.lot
    encoder = made._pipe.text_encoder_2
    tokens = torch.arange(3, 11)[None]

    def read() -> Tensor:
        with torch.no_grad():
            states: Tensor = encoder(tokens).last_hidden_state
        return states

    plain = read()
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            for _ in range(15):
                # Every other thread says that it is about to call, and the others do so.
                says = lot.at_home() if number % 2 else ExitStack()
                with lot.parked(["text_encoder", "text_encoder_2"]), says:
                    if not torch.equal(read(), plain):
                        wrong.append(number)
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert torch.equal(read(), plain)


def test_threads_bind_and_draw_while_others_climb() -> None:
    pipe: Any = tiny_pipeline("flux")
    made = sampler(pipe)
    prompts = ["a cat", "a dog"]
    plain = {prompt: drawn(made.bind([prompt], [1])) for prompt in prompts}
    wrong: list[str] = []

    def work(prompt: str) -> None:
        try:
            for _ in range(4):
                # As runs bind: tokenizers are not for two threads at once.
                with alone():
                    bound = made.bind([prompt], [1])
                with bound.climbing():
                    for _ in range(2):
                        if not torch.equal(drawn(bound), plain[prompt]):
                            wrong.append(prompt)
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(prompt,)) for prompt in prompts * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device with too little memory, and a machine with enough beside it."""
    monkeypatch.setattr(rooms, "free_bytes", lambda _: SLACK)
    monkeypatch.setattr(rooms, "aside_bytes", lambda _: None)


class Interrupting:
    """An observer that looks where a part is, and then presses stop."""

    def __init__(self, memory: Memory, error: BaseException | None) -> None:
        self._memory = memory
        self._error = error
        self.seen: list[bool] = []

    @hookimpl
    def step_done(self, event: Any) -> None:
        self.seen.append(self._memory.is_let_go)
        if self._error is not None:
            raise self._error


@pytest.mark.usefixtures("tight")
@pytest.mark.parametrize("end", ["finished", "failed", "interrupted"])
def test_a_live_pipeline_is_given_back_however_a_run_ends(end: str) -> None:
    pipe = tiny_stable_diffusion("sdxl")
    before = {name: numbers(part) for name, part in encoders(pipe).items()}
    asked = 0

    def reward(images: Tensor, prompts: Any) -> Tensor:
        nonlocal asked
        asked += 1
        if end == "failed" and asked == 2:
            raise RuntimeError("no more")
        return images.mean(dim=(1, 2, 3))

    config = RunConfig.parse(
        {
            "prompts": ["a cat"],
            "rewards": [{"use": reward}],
            "device": "cpu",
            "coarse": [2],
            "iterations": 2,
            "sampler": {"use": "ddim", "model": pipe, "steps": 4},
            "observers": [],
        }
    )
    watcher = Interrupting(
        Memory(pipe.text_encoder_2), KeyboardInterrupt() if end == "interrupted" else None
    )
    models = load(config)
    outcome = run(config, loaded=models, onlookers=[watcher])
    assert outcome.status == end
    assert watcher.seen
    assert all(watcher.seen), "the second text encoder was there during the climb"
    assert_given_back(pipe, before)
    if end != "finished":
        return

    kept = config.model_copy(
        update={"sampler": config.sampler.model_copy(update={"memory": "keep"})}
    )
    other = run(kept)
    assert torch.equal(outcome.best.noise_BN, other.best.noise_BN)
    assert outcome.best.rewards == other.best.rewards
    # The next prompt of the session is read as it should be.
    again = config.model_copy(update={"prompts": ("a dog",)})
    assert torch.equal(
        run(again, loaded=models).best.noise_BN,
        run(again.model_copy(update={"sampler": kept.sampler})).best.noise_BN,
    )


def test_a_live_pipeline_on_another_device_is_left_alone() -> None:
    given = tiny_stable_diffusion("sd1").text_encoder
    view = copy.deepcopy(given).requires_grad_(False)
    given.to("meta")
    lot = ParkingLot(SimpleNamespace(text_encoder=given), SimpleNamespace(text_encoder=view), CPU)
    tokens = torch.arange(3, 11)[None]
    plain = view(tokens).last_hidden_state

    for _ in range(2):
        memory = Memory(view)
        with lot.parked(["text_encoder"]):
            assert memory.is_let_go
            pickle.dumps(given)
            given(tokens.to("meta"))
            assert all(weight.isnan().all() for weight in view.parameters()), "it came back"
        pickle.dumps(given)
        # Calls when nobody climbs say nothing about the next climb.
        given(tokens.to("meta"))
        assert torch.equal(view(tokens).last_hidden_state, plain)
        assert not any(part._forward_pre_hooks for part in view.modules())


def test_an_interrupt_on_the_way_leaves_a_live_pipeline_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe: Any = tiny_pipeline("flux")
    before = {name: numbers(part) for name, part in encoders(pipe).items()}
    made = sampler(pipe)
    lot: ParkingLot = made._spare.lot
    leave = parking._Piece.leave

    for first in (0, 5):
        count = itertools.count()

        def interrupted(piece: Any, count: Any = count, first: int = first) -> Any:
            if next(count) == first:
                raise KeyboardInterrupt
            return leave(piece)

        monkeypatch.setattr(parking._Piece, "leave", interrupted)
        with pytest.raises(KeyboardInterrupt), lot.parked(["text_encoder", "text_encoder_2"]):
            pass
        assert_given_back(pipe, before)


def test_what_libraries_move_or_compile_is_left_alone() -> None:
    offloaded = tiny_stable_diffusion("sd1")
    offloaded.enable_model_cpu_offload(device="cpu")
    compiled = tiny_stable_diffusion("sd1")
    with quiet():
        compiled.text_encoder.compile()
    tied = tiny_stable_diffusion("sdxl")
    tied.text_encoder_2.set_input_embeddings(tied.text_encoder.get_input_embeddings())
    for pipe in (offloaded, compiled, tied):
        made = DDIMSampler(pipe, steps=STEPS, memory="auto")
        made.make_room(Room(SLACK, lambda shape, entries: Beside(), aside=None))
        bound = made.bind(["a cat"], [1])
        assert not bound._memory.parked
        memory = Memory(pipe.text_encoder)
        with bound.climbing():
            assert not memory.is_let_go


def test_a_safety_checker_goes_too() -> None:
    pipe = tiny_stable_diffusion("sd1")
    config = CLIPConfig(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 8,
        },
        projection_dim=16,
    )
    with quiet():
        pipe.safety_checker = checker = StableDiffusionSafetyChecker(config)
    size = sum(weight.nbytes for weight in (*checker.parameters(), *checker.buffers()))
    made = DDIMSampler(pipe, steps=STEPS, memory="auto")
    made.make_room(Room(SLACK, lambda shape, entries: Beside(), aside=None))
    bound = made.bind(["a cat"], [1])
    assert set(bound.footprint.parked) == {"text_encoder", "safety_checker"}
    # It is not the run's, and what it leaves is more than was free.
    assert bound.footprint.room == SLACK + sum(bound.footprint.weights.values()) + size
    memory = Memory(checker)
    before = numbers(checker)
    with bound.climbing():
        assert memory.is_let_go
        assert same(checker.state_dict(), before)
        looked = checker.vision_model(torch.ones(1, 3, 16, 16)).pooler_output
        assert looked.isfinite().all()


def test_a_machine_without_memory_for_a_copy_keeps_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pipe: Any = tiny_pipeline("flux")
    before = {name: numbers(part) for name, part in encoders(pipe).items()}
    bound = sampler(pipe).bind(["a cat"], [1])
    plain = drawn(bound)
    leave = parking._Piece.leave
    count = itertools.count()

    def short_of_memory(piece: Any) -> Any:
        if next(count) == 5:
            raise MemoryError("not a byte left")
        return leave(piece)

    monkeypatch.setattr(parking._Piece, "leave", short_of_memory)
    with bound.climbing():
        assert torch.equal(drawn(bound), plain)
    assert_given_back(pipe, before)
    assert "stays on cpu: not a byte left" in caplog.text
