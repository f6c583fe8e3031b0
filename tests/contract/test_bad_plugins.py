"""The conformance kit catches what it is there for: for each of its checks there is a plugin that
breaks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from distributions import Site

from dno.core.noise import gaussian_noise
from dno.plugin import (
    ConfigError,
    Medium,
    ObserverConfig,
    OptimizerConfig,
    Penalty,
    RegularizerConfig,
    RewardConfig,
    SamplerConfig,
    hookimpl,
)
from dno.registry.configs import PluginConfig
from dno.testing import (
    ObserverContract,
    OptimizerContract,
    RegularizerContract,
    RewardContract,
    SamplerContract,
)
from dno.testing.configs import ConfigContract
from dno.testing.toy import Ascent, ToySampler

CONTRACTS: dict[type[PluginConfig], type[ConfigContract[Any]]] = {
    RewardConfig: RewardContract,
    SamplerConfig: SamplerContract,
    RegularizerConfig: RegularizerContract,
    OptimizerConfig: OptimizerContract,
    ObserverConfig: ObserverContract,
}


def contract(config: PluginConfig) -> ConfigContract[Any]:
    kind = next(kind for kind in CONTRACTS if isinstance(config, kind))
    return type("TestPlugin", (CONTRACTS[kind],), {"config": config, "__module__": "their_tests"})()


def checks(cls: type) -> set[str]:
    return {name for name in dir(cls) if name.startswith("test_")}


@dataclass(frozen=True)
class Bad:
    """A plugin, the check that it fails, and a part of what that check says."""

    name: str
    config: PluginConfig
    check: str
    says: str


def config(base: type[Any], part: Callable[[], object], **attributes: Any) -> PluginConfig:
    """A config that builds what `part` returns, anew each time."""
    about = {
        "__doc__": "Bad on purpose.",
        "__module__": __name__,
        "build": lambda self, ctx: part(),
    }
    return type("Plugin", (base,), about | attributes)()  # type: ignore[no-any-return]


# --- Options
# --------------------------------------------------------------------------------------------------


class Silent(RewardConfig):
    """An option without help."""

    colour: str = "red"

    def build(self, ctx: Any) -> Any:
        return mean


class Nameless(RewardConfig):
    def build(self, ctx: Any) -> Any:
        return mean


class Holed(RewardConfig):
    """A value that TOML cannot hold."""

    names: tuple[str | None, ...] = ("a", None)
    """Names."""

    def build(self, ctx: Any) -> Any:
        return mean


class Taken(RewardConfig):
    """An option that has the name of the plugin's own place."""

    use: str = "x"
    """Use."""

    def build(self, ctx: Any) -> Any:
        return mean


class Rounded(RewardConfig):
    """A value that is read back as another."""

    share: float = 0.25
    """Share."""

    def model_dump(self, **options: Any) -> dict[str, Any]:
        return super().model_dump(**options) | {"share": round(self.share, 1)}

    def build(self, ctx: Any) -> Any:
        return mean


class Refusing(RewardConfig):
    """Refuses its own options."""

    def check(self) -> None:
        raise ConfigError("there is no such folder")

    def build(self, ctx: Any) -> Any:
        return mean


def options() -> Iterator[Bad]:
    yield Bad("no help", Silent(), "test_every_option_is_described", "colour")
    yield Bad("no docstring", Nameless(), "test_every_option_is_described", "has no docstring")
    yield Bad("no toml", Holed(), "test_options_survive_toml", "cannot be written to TOML")
    yield Bad("use", Taken(), "test_options_survive_toml", "an option is called `use`")
    yield Bad(
        "lossy",
        Rounded(),
        "test_options_survive_toml",
        "has become Rounded(weight=1.0, frames=None, share=0.2)",
    )
    yield Bad("refusing", Refusing(), "test_check_accepts_these_options", "there is no such folder")
    # This module, which imports torch as any heavy plugin's does.
    yield Bad("heavy", Silent(), "test_import_is_light", "imports torch")


# --- Rewards
# --------------------------------------------------------------------------------------------------


def mean(images: Any, prompts: Any) -> Any:
    return images.mean(dim=(1, 2, 3))


class Counting:
    """Remembers how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Any, prompts: Any) -> Any:
        self.calls += 1
        return mean(images, prompts) + 0.1 * self.calls


class Learning(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(()))

    def forward(self, images: Any, prompts: Any) -> Any:
        return self.factor * mean(images, prompts)


def drifted(counter: Counting) -> Any:
    counter.calls += 1
    calls = counter.calls
    return lambda images, prompts: mean(images, prompts) + 0.1 * calls


def emptied(images: Any, prompts: Any) -> Any:
    value = mean(images, prompts)
    prompts.clear()
    return value


def seeding(images: Any, prompts: Any) -> Any:
    torch.manual_seed(0)
    return mean(images, prompts)


def shifted(images: Any, prompts: Any) -> Any:
    return mean(images.add_(0.01), prompts)


def rewards() -> Iterator[Bad]:
    one, alone = "test_one_finite_float_an_image", "test_an_image_is_judged_by_itself"
    same, kept = (
        "test_the_same_images_have_the_same_scores",
        "test_images_and_prompts_are_left_as_they_were",
    )
    reaches, agrees = (
        "test_a_gradient_reaches_the_pixels",
        "test_the_gradient_agrees_with_finite_differences",
    )
    functions: dict[str, tuple[Callable[[Any, Any], Any], str, str]] = {
        "a float": (
            lambda images, prompts: float(images.mean()),
            one,
            "returns float, not a tensor",
        ),
        "a column": (
            lambda images, prompts: mean(images, prompts)[:, None],
            one,
            r"shape (1, 1); it should be (1,)",
        ),
        "half": (
            lambda images, prompts: mean(images, prompts).half(),
            one,
            "returns torch.float16",
        ),
        "elsewhere": (
            lambda images, prompts: mean(images, prompts).to("meta"),
            one,
            "have scores on meta",
        ),
        "log of black": (
            lambda images, prompts: mean(images, prompts).log(),
            one,
            "grey and white images the reward",
        ),
        "ranking": (
            lambda images, prompts: mean(images - images.mean(), prompts),
            alone,
            "than in a batch",
        ),
        "place": (
            lambda images, prompts: mean(images, prompts) * torch.arange(1, len(images) + 1),
            alone,
            "another score",
        ),
        "first prompt": (
            lambda images, prompts: mean(images, prompts) * len(prompts[0]),
            alone,
            "its own prompt",
        ),
        "random": (
            lambda images, prompts: mean(images, prompts) + 0.1 * torch.rand(len(images)),
            same,
            "global random state",
        ),
        "seeding": (seeding, same, "changes torch's global random state"),
        "in place": (shifted, kept, "changes the images"),
        "prompts": (emptied, kept, "changes the prompts"),
        "cut off": (
            lambda images, prompts: mean(images.detach(), prompts),
            reaches,
            "cut off from the images",
        ),
        "rounded": (
            lambda images, prompts: mean((images * 255).round(), prompts),
            reaches,
            "zero in every pixel",
        ),
        "other with a graph": (
            lambda images, prompts: mean(images, prompts) + images.requires_grad,
            reaches,
            "with a gradient the scores are others",
        ),
        "root at grey": (
            lambda images, prompts: images.var(dim=(1, 2, 3)).sqrt(),
            reaches,
            "for black, grey and white",
        ),
        "half cut off": (
            lambda images, prompts: mean(images * images.detach(), prompts),
            agrees,
            "off from finite differences",
        ),
        "mean cut off": (
            lambda images, prompts: (
                images.var(dim=(1, 2, 3)) + 0.1 * mean(images.detach(), prompts)
            ),
            agrees,
            "off from finite differences",
        ),
    }
    for name, (function, check, says) in functions.items():
        yield Bad(name, config(RewardConfig, lambda function=function: function), check, says)
    yield Bad(
        "counting",
        config(RewardConfig, Counting),
        same,
        "asked twice, the reward does not answer the same",
    )
    learning = Learning()
    unseen = config(
        RewardConfig, lambda: lambda images, prompts: learning(images.detach(), prompts)
    )
    yield Bad("learning, cut off", unseen, reaches, "none in the images")
    yield Bad(
        "learning",
        config(RewardConfig, Learning),
        "test_its_weights_are_frozen",
        "freeze the weights",
    )
    yield Bad("no return", config(RewardConfig, lambda: None), one, "is a `return` missing?")
    counter = Counting()
    drifting = config(RewardConfig, lambda: drifted(counter))
    yield Bad("drifting", drifting, same, "built twice, the reward does not answer the same")


# --- Samplers
# --------------------------------------------------------------------------------------------------


class Changed:
    """`ToySampler`, with its map changed."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def bind(self, prompts: Any, seeds: Any) -> Any:
        inner = ToySampler().bind(prompts, seeds)
        changes = {
            "noise_BN": inner.noise_BN,
            "draws": inner.draws,
            "call": lambda self, noise: inner(noise),
        }
        changes |= {
            key: value(inner, seeds) if key != "call" else value
            for key, value in self.changes.items()
        }
        return type("Map", (), {"__call__": changes.pop("call"), **changes})()


def toy(noise: Any) -> Any:
    return ToySampler().bind([""] * len(noise), [0] * len(noise))(noise)


def samplers() -> Iterator[Bad]:
    noise, sample = "test_noise_is_the_draws_of_the_seeds", "test_one_finite_sample_a_row"
    pure, alone, draw = (
        "test_a_call_is_pure",
        "test_a_sample_is_made_by_itself",
        "test_a_gradient_reaches_every_draw",
    )
    agrees, counted = (
        "test_the_gradient_agrees_with_finite_differences",
        "test_evaluations_are_counted",
    )
    weight = torch.ones((), requires_grad=True)
    calls: dict[str, tuple[Callable[[Any, Any], Any], str, str]] = {
        "one sample": (lambda self, z: toy(z)[:1], sample, "2 rows of noise gave 1 samples"),
        "double": (lambda self, z: toy(z).double(), sample, "samples are torch.float64"),
        "nan": (lambda self, z: toy(z) / 0 * 0, sample, "not finite"),
        "grey": (lambda self, z: toy(z)[:, :1], sample, "images have 1 channels"),
        "too low": (lambda self, z: 2 * toy(z) - 1, sample, "images go down to -"),
        "too high": (lambda self, z: 255 * toy(z), sample, "images go up to 2"),
        "dropout": (lambda self, z: toy(z) * torch.rand(()), pure, "gives other samples"),
        "in place": (
            lambda self, z: toy(z.data.mul_(0.5) if not z.requires_grad else z),
            pure,
            "changes the noise",
        ),
        "batch norm": (lambda self, z: toy(z - z.mean(0)), alone, "when it is computed alone"),
        "learning": (
            lambda self, z: toy(z) * weight,
            "test_weights_are_frozen",
            "freeze the weights",
        ),
        "cut off": (lambda self, z: toy(z.detach()), draw, "cut off from the noise"),
        "idle draw": (
            lambda self, z: toy(torch.cat([z[:, :192], 0 * z[:, 192:]], 1)),
            draw,
            "draws [1] do not act",
        ),
        "neighbours": (
            lambda self, z: toy(z + 0.1 * z.flip(0)),
            draw,
            "in other rows of the noise",
        ),
        "root": (
            lambda self, z: toy((z - z.detach()).abs().sqrt()),
            draw,
            "the gradient is not finite",
        ),
        "half cut off": (
            lambda self, z: toy(z + 2 * z.detach()),
            agrees,
            "off from finite differences",
        ),
    }
    for name, (call, check, says) in calls.items():
        yield Bad(name, config(SamplerConfig, lambda call=call: Changed(call=call)), check, says)
    attributes: dict[str, tuple[dict[str, Callable[[Any, Any], Any]], str, str]] = {
        "few draws": ({"draws": lambda m, seeds: m.draws[:1]}, noise, "draws say 2 x 192"),
        "half noise": (
            {"noise_BN": lambda m, seeds: m.noise_BN.half()},
            noise,
            "noise is always float32",
        ),
        "leaf": ({"noise_BN": lambda m, seeds: m.noise_BN.requires_grad_()}, noise, "detach it"),
        "unseeded": (
            {"noise_BN": lambda m, seeds: torch.randn_like(m.noise_BN)},
            noise,
            "bound twice",
        ),
        "one seed": (
            {"noise_BN": lambda m, seeds: gaussian_noise(m.draws, [seeds[-1]] * len(seeds))},
            noise,
            "beside",
        ),
        "uniform": (
            {"noise_BN": lambda m, seeds: m.noise_BN.sigmoid()},
            noise,
            "not that of N(0, I)",
        ),
        "no film": (
            {"medium": lambda m, seeds: Medium("video")},
            sample,
            "it says that they are video: B x F x 3 x H x W",
        ),
        "a word": ({"medium": lambda m, seeds: "image"}, sample, "should be a dno.plugin.Medium"),
        "free": ({"network_evaluations": lambda m, seeds: 0}, counted, "never spend a budget"),
        "broken": ({"network_evaluations": lambda m, seeds: 2.5}, counted, "a whole number"),
    }
    for name, (changes, check, says) in attributes.items():
        yield Bad(
            name, config(SamplerConfig, lambda changes=changes: Changed(**changes)), check, says
        )


# --- Regularizers
# --------------------------------------------------------------------------------------------------


def length(noise: Any, generators: Any) -> Any:
    return (noise.square().mean(1) - 1).square()


def regularizers() -> Iterator[Bad]:
    one, row = "test_one_finite_penalty_a_row", "test_a_row_is_judged_by_itself"
    seeded, reaches = "test_all_randomness_is_the_generators", "test_a_gradient_reaches_the_noise"
    agrees, costs = (
        "test_the_gradient_agrees_with_finite_differences",
        "test_unusual_noise_costs_more",
    )
    flat = lambda z, g: 0 * z.sum(1) + 1  # noqa: E731
    functions: dict[str, tuple[Callable[[Any, Any], Any], str, str]] = {
        "one number": (
            lambda z, g: length(z, g).mean(),
            one,
            "shape (); for 3 rows it should be (3,)",
        ),
        "list": (lambda z, g: length(z, g).tolist(), one, "is list, not a tensor"),
        "integers": (lambda z, g: (length(z, g) > 0).int(), one, "it should be floating-point"),
        "negative": (lambda z, g: length(z, g) - 0.1, one, "is negative"),
        "nan": (
            lambda z, g: length(z, g) / (z - 1).abs().sum(1),
            one,
            "not finite for constant noise",
        ),
        "log P": (
            lambda z, g: Penalty(length(z, g), log_p_B=length(z, g)),
            one,
            "it is a log-probability",
        ),
        "log P at times": (
            lambda z, g: Penalty(length(z, g), -length(z, g) if length(z, g).max() > 0.1 else None),
            one,
            "log P is reported for Gaussian or for too long noise alone",
        ),
        "log P of the batch": (
            lambda z, g: Penalty(length(z, g), log_p_B=-z.square().mean().expand(len(z))),
            row,
            "log P of a row is another alone",
        ),
        "counting log P": (Counted(), seeded, "with the same generators log P is"),
        "blind": (flat, costs, "costs more than Gaussian noise does"),
        "backwards": (lambda z, g: 1 / (1 + length(z, g)), costs, "no unusual noise"),
        "batch": (
            lambda z, g: length(z - z.mean(0), g),
            row,
            "the penalty of a row is another alone",
        ),
        "first generator": (
            lambda z, g: length(z[:, torch.randperm(z.shape[1], generator=g[0])[:99]], g),
            row,
            "the penalty of a row is another",
        ),
        "global": (
            lambda z, g: length(z[:, torch.randperm(z.shape[1])[:99]], g),
            seeded,
            "global random state",
        ),
        "drawing": (Drawing(), seeded, "with the same generators"),
        "in place": (
            lambda z, g: length(z.data.clamp_(-1, 1), g),
            "test_noise_is_left_as_it_was",
            "changes the noise",
        ),
        "cut off": (lambda z, g: length(z.detach(), g), reaches, "cut off from the noise"),
        "level": (
            lambda z, g: length(z, g).round(decimals=2) + 0 * z.sum(1),
            reaches,
            "zero everywhere",
        ),
        "root": (
            lambda z, g: length(z, g) + 0 * (z - z.detach()).norm(dim=1).sqrt(),
            reaches,
            "gradient is not finite",
        ),
        "neighbours": (
            lambda z, g: length(z, g) + 1e-9 * z.flip(0).sum(1),
            reaches,
            "in other rows than row 0",
        ),
        "half cut off": (
            lambda z, g: (z * z.detach()).mean(1).sub(1).square(),
            agrees,
            "off from finite differences",
        ),
    }
    for name, (function, check, says) in functions.items():
        yield Bad(name, config(RegularizerConfig, lambda function=function: function), check, says)


class Counted:
    """Reports how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, noise: Any, generators: Any) -> Any:
        self.calls += 1
        log_p_B = torch.full((len(noise),), -1.0 * self.calls)
        return Penalty(length(noise, generators), log_p_B=log_p_B)


class Drawing:
    """Draws from a generator of its own."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, noise: Any, generators: Any) -> Any:
        return length(
            noise[:, torch.randperm(noise.shape[1], generator=self.generator)[:99]], generators
        )


# --- Optimizers
# --------------------------------------------------------------------------------------------------


class Steps(Ascent):
    """Gradient ascent, with its step changed."""

    def __init__(self, change: Callable[[Any, Any, Any], Any], first: Any = None) -> None:
        super().__init__(0.1)
        object.__setattr__(self, "change", change)
        object.__setattr__(self, "first", {} if first is None else first)

    def init(self, noise_BN: Any) -> Any:
        return self.first

    def step(self, objective: Any, noise_BN: Any, state: Any) -> Any:
        return self.change(objective, noise_BN, state)


def up(objective: Any, noise: Any) -> Any:
    return noise + 0.1 * objective.value_and_grad(noise)[1]


class Hoarding(Ascent):
    """Keeps its memory in itself."""

    def __init__(self) -> None:
        super().__init__(0.1)
        object.__setattr__(self, "count", [])

    def step(self, objective: Any, noise_BN: Any, state: Any) -> Any:
        self.count.append(1)  # type: ignore[attr-defined]
        return up(objective, noise_BN) + 0.01 * len(self.count), state  # type: ignore[attr-defined]


def optimizers() -> Iterator[Bad]:
    tensors, better = (
        "test_a_step_gives_noise_and_tensors_by_name",
        "test_something_better_is_found",
    )
    pure, resumed = "test_a_step_is_pure", "test_a_climb_goes_on_from_its_saved_state"
    rows, flat = "test_rows_climb_by_themselves", "test_flat_ground_is_no_trouble"

    def in_place(objective: Any, noise: Any, state: Any) -> Any:
        grad = objective.value_and_grad(noise)[1]
        return noise.add_(0.1 * grad), state

    def counted(objective: Any, noise: Any, state: Any) -> Any:
        state["count"] += 1
        return up(objective, noise), state

    def with_graph(objective: Any, noise: Any, state: Any) -> Any:
        return up(objective, noise).requires_grad_(), state

    def unscaled(objective: Any, noise: Any, state: Any) -> Any:
        grad = objective.value_and_grad(noise)[1]
        return noise + 0.1 * grad / grad.norm(dim=1, keepdim=True), state

    def forgetful(objective: Any, noise: Any, state: Any) -> Any:
        return up(objective, noise), {"mean": torch.zeros_like(noise).log()}

    def whole_batch(objective: Any, noise: Any, state: Any) -> Any:
        grad = objective.value_and_grad(noise)[1]
        return noise + 0.1 * grad / grad.norm(), state

    def global_noise(objective: Any, noise: Any, state: Any) -> Any:
        return up(objective, noise) + 0.01 * torch.randn_like(noise), state

    steps: dict[str, tuple[Callable[[Any, Any, Any], Any], Any, str, str]] = {
        "noise alone": (lambda o, z, s: up(o, z), None, tensors, "it should be (noise, state)"),
        "three": (lambda o, z, s: (up(o, z), s, 0), None, tensors, "step returned 3 things"),
        "a list": (
            lambda o, z, s: (up(o, z).tolist(), s),
            None,
            tensors,
            "step returned list for noise",
        ),
        "a row": (lambda o, z, s: (up(o, z)[0], s), None, tensors, "step made (12,)"),
        "double": (
            lambda o, z, s: (up(o, z).double(), s),
            None,
            tensors,
            "noise is always float32",
        ),
        "elsewhere": (lambda o, z, s: (up(o, z).to("meta"), s), None, tensors, "to meta"),
        "a graph": (with_graph, None, tensors, "detach it"),
        "nan": (lambda o, z, s: (up(o, z) * float("nan"), s), None, tensors, "not finite"),
        "counter": (lambda o, z, s: (up(o, z), s), {"count": 0}, tensors, "count is no tensor"),
        "no names": (
            lambda o, z, s: (up(o, z), s),
            (torch.zeros(1),),
            tensors,
            "it should be tensors by name",
        ),
        "new names": (
            lambda o, z, s: (up(o, z), {"mean": z}),
            None,
            tensors,
            "names change from [] to ['mean']",
        ),
        "deaf": (lambda o, z, s: (z + 0.1, s), None, better, "never asks"),
        "downhill": (lambda o, z, s: (2 * z - up(o, z), s), None, better, "the best is"),
        "in place": (in_place, None, pure, "changes the noise"),
        "counted": (
            counted,
            {"count": torch.zeros(())},
            pure,
            "changes the state that it is given (count)",
        ),
        "global noise": (global_noise, None, pure, "global random state"),
        "whole batch": (whole_batch, None, rows, "another way when it is alone"),
        "unscaled": (unscaled, None, flat, "the noise is not finite"),
        "nan state": (
            lambda o, z, s: (up(o, z), {"mean": 0 / (z - z)}),
            {"mean": torch.zeros(1)},
            flat,
            "holds nan: mean",
        ),
    }
    for name, (change, first, check, says) in steps.items():
        yield Bad(
            name,
            config(OptimizerConfig, lambda change=change, first=first: Steps(change, first)),
            check,
            says,
        )
    yield Bad("hoarding", config(OptimizerConfig, Hoarding), pure, "moves to another place")
    yield Bad(
        "hoarding", config(OptimizerConfig, Hoarding), resumed, "resumed from its saved state"
    )


# --- Observers
# --------------------------------------------------------------------------------------------------


class Watching:
    @hookimpl
    def run_started(self, event: Any) -> None:
        self.run = event.run


class Blind:
    def step_done(self, event: Any) -> None: ...


class Mistaken:
    @hookimpl
    def step_finished(self, event: Any) -> None: ...


class Older:
    """Takes the event apart in its signature, as observers did once."""

    @hookimpl
    def step_done(self, record: Any, samples: Any) -> None: ...


class Meddling:
    @hookimpl
    def step_done(self, event: Any) -> None:
        event.samples.mul_(0.5)


class Leaving:
    """Asks to stop, and not only that."""

    @hookimpl
    def step_done(self, event: Any) -> bool:
        event.samples.mul_(0.5)
        return True


class Forging:
    @hookimpl
    def step_done(self, event: Any) -> None:
        event.record.rewards["brightness"] = (1.0, 1.0)


class Littering:
    @hookimpl
    def run_finished(self, event: Any) -> None:
        Path("log.txt").write_text("here")


class Homeless(Watching):
    """Writes where the process happens to be when there is no run folder."""

    @hookimpl
    def run_finished(self, event: Any) -> None:
        (event.run.folder or Path()).joinpath("log.txt").write_text("here")


class Greedy(Watching):
    @hookimpl
    def run_finished(self, event: Any) -> None:
        if event.run.folder:
            (event.run.folder / "noise.safetensors").write_bytes(b"mine")


class Needing(Watching):
    @hookimpl
    def run_finished(self, event: Any) -> None:
        event.run.folder.joinpath("log.txt").write_text("here")


class Single(Watching):
    """Takes it that a run starts at 0."""

    @hookimpl
    def run_started(self, event: Any) -> None:
        if event.run.folder:
            (event.run.folder / "mine").mkdir()


class Trusting(Watching):
    """Takes it that there are as many records as were planned."""

    @hookimpl
    def run_finished(self, event: Any) -> None:
        event.outcome.history[event.run.iterations]


class Ranking:
    """Takes it that every sample has a finite reward."""

    @hookimpl
    def step_done(self, event: Any) -> None:
        for value in event.record.rewards["brightness"]:
            round(value)


def observers() -> Iterator[Bad]:
    events, looks = "test_it_asks_for_events_that_there_are", "test_it_looks_on"
    folder, none = "test_it_keeps_to_the_run_folder", "test_it_does_without_a_run_folder"
    for cls, check, says in (
        (Blind, events, "no method is marked"),
        (Mistaken, events, "step_finished"),
        (Older, events, "can not be found in the hookspec"),
        (Meddling, looks, "changes tensors of the run"),
        (Forging, looks, "records change"),
        (Littering, folder, "outside the run folder: log.txt"),
        (Homeless, none, "into the working folder: log.txt"),
        (Greedy, folder, "overwrites the run's own files: noise.safetensors"),
        (Leaving, looks, "changes tensors of the run"),
        (Needing, none, "NoneType"),
        (Single, "test_it_watches_a_resumed_run", "FileExistsError"),
        (Trusting, "test_it_watches_a_run_that_fails", "IndexError"),
        (Ranking, "test_it_watches_a_run_in_which_a_sample_fails", "cannot convert float NaN"),
    ):
        yield Bad(cls.__name__.lower(), config(ObserverConfig, cls), check, says)


CASES = [*options(), *rewards(), *samplers(), *regularizers(), *optimizers(), *observers()]


@pytest.mark.parametrize(
    "bad", CASES, ids=lambda bad: f"{bad.check.removeprefix('test_')}-{bad.name}"
)
def test_a_bad_plugin_is_caught_and_told_in_one_sentence(bad: Bad) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)) as caught:
        getattr(contract(bad.config), bad.check)()
    assert bad.says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plugin_whose_name_does_not_load_is_caught(site: Site) -> None:
    code = (
        "from dno.plugin import RewardConfig\nclass Sunny(RewardConfig):\n    'Sunny.'\n    "
        "def build(self, ctx): ...\n"
    )
    site.install("dno-sunny", "[dno.v1.rewards]\nBad_Name = sunny_kit:Sunny\n", "sunny_kit", code)
    import sunny_kit

    with pytest.raises(pytest.fail.Exception, match="has a bad name"):
        contract(sunny_kit.Sunny()).test_it_can_be_asked_for_by_name()


@pytest.mark.parametrize(
    "entry",
    [
        "[dno.v1.rewards]\nsunny = sunny_typo:Suny",
        "[dno.v1.rewards]\nsunny = suny_typo:Sunny",
        "[dno.v1.rewards]\nsunny = sunny_typo.Sunny",
        "[dno.v1.rewards]\nsunny = sunny_typo",
        "[dno.v1.optimizers]\nsunny = sunny_typo:Sunny",
        "[dno.v1.reward]\nsunny = sunny_typo:Sunny",
        "[dno.rewards]\nsunny = sunny_typo:Sunny",
    ],
)
def test_an_entry_point_with_a_mistake_is_caught(site: Site, entry: str) -> None:
    site.install("dno-sunny", f"{entry}\n", "sunny_typo")
    import sunny_typo

    with pytest.raises(
        AssertionError, match=r'write sunny_typo:Sunny under "dno.v1.rewards" in pyproject.toml'
    ):
        contract(sunny_typo.Sunny()).test_it_can_be_asked_for_by_name()


@pytest.mark.parametrize("cls", CONTRACTS.values(), ids=lambda cls: cls.__name__)
def test_every_check_has_a_plugin_that_breaks_it(cls: type) -> None:
    broken = {case.check for case in CASES if isinstance(contract(case.config), cls)}
    shared = checks(ConfigContract)
    assert checks(cls) - shared == broken - shared
    tried = {case.check for case in options()} | {"test_it_can_be_asked_for_by_name"}
    assert tried == shared


# --- Unusual, and not bad
# -------------------------------------------------------------------------------------------


def run(case: ConfigContract[Any]) -> list[str]:
    """Reasons of the checks that were skipped; any other outcome than that and a pass is raised."""
    reasons = []
    for name in sorted(checks(type(case))):
        try:
            getattr(case, name)()
        except pytest.skip.Exception as skipped:
            reasons.append(str(skipped))
    return reasons


def picky(images: Any, prompts: Any) -> Any:
    """Refuses what is no image, as a library may."""
    assert images.min() >= 0
    assert images.max() <= 1
    return mean(images, prompts)


UNUSUAL: dict[str, Callable[[Any, Any], Any]] = {
    "logarithm": lambda images, prompts: (images + 0.01).log().mean(dim=(1, 2, 3)),
    "gamma": lambda images, prompts: mean(images.clamp(min=1e-3).pow(2.2), prompts),
    "median": lambda images, prompts: images.flatten(1).median(dim=1).values,
    "quantile": lambda images, prompts: images.flatten(1).quantile(0.9, dim=1),
    "brightest": lambda images, prompts: images.flatten(1).amax(dim=1),
    "ten brightest": lambda images, prompts: images.flatten(1).topk(10).values.mean(dim=1),
    "in [0, 1] alone": picky,
    "double": lambda images, prompts: mean(images.double(), prompts),
    "tiny": lambda images, prompts: 1e-6 * mean(images, prompts),
    "large": lambda images, prompts: 1e6 * mean(images, prompts) + 1e7,
}


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """These configs are made here, in a module that imports torch."""
    monkeypatch.setattr(ConfigContract, "test_import_is_light", lambda self: None)


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("function", UNUSUAL.values(), ids=UNUSUAL)
def test_an_unusual_reward_passes(function: Callable[[Any, Any], Any]) -> None:
    run(contract(config(RewardConfig, lambda: function)))


def test_a_reward_that_nearly_repeats_passes_where_it_says_so() -> None:
    counter = Counting()
    nearly = config(RewardConfig, lambda: lambda i, p: mean(i, p) + 1e-6 * counter(i, p))
    case: Any = contract(nearly)
    with pytest.raises(AssertionError, match="asked twice"):
        case.test_the_same_images_have_the_same_scores()
    type(case).repeatable = False
    case.test_the_same_images_have_the_same_scores()


@pytest.mark.usefixtures("light")
def test_samples_that_are_no_images_pass_where_the_test_says_so() -> None:
    case: Any = contract(
        config(SamplerConfig, lambda: Changed(call=lambda self, z: 9 * toy(z).repeat(1, 2, 1, 1)))
    )
    with pytest.raises(AssertionError, match="images have 6 channels"):
        run(case)
    type(case).samples_are_images = False
    assert "samples_are_images = False, so that their shape and range are not checked" in run(case)


@dataclass(frozen=True)
class Said:
    """What a map says that its samples are, and what it makes of the toy's images."""

    medium: Medium
    call: Callable[[Any], Any]
    wrong: Callable[[Any], Any]
    told: str


SAID = (
    Said(
        Medium("video"),
        lambda images: images[:, None].repeat(1, 2, 1, 1, 1),
        lambda images: 2 * images[:, None].repeat(1, 2, 1, 1, 1),
        "frames go up to ",
    ),
    Said(
        Medium("audio", 8_000),
        lambda images: 2 * images.flatten(2) - 1,
        lambda images: 3 * images.flatten(2) - 2,
        "sounds go down to ",
    ),
)


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("said", SAID, ids=lambda said: said.medium.kind)
def test_samples_that_are_what_their_map_says_pass(said: Said) -> None:
    medium = {"medium": lambda inner, seeds: said.medium}
    right = config(SamplerConfig, lambda: Changed(call=lambda _, z: said.call(toy(z)), **medium))
    assert not any("samples_are_images" in reason for reason in run(contract(right)))
    wrong = config(SamplerConfig, lambda: Changed(call=lambda _, z: said.wrong(toy(z)), **medium))
    with pytest.raises(AssertionError, match=said.told):
        run(contract(wrong))


@pytest.mark.usefixtures("light")
def test_a_regularizer_that_only_reports_is_skipped_where_penalties_are_checked() -> None:
    report = config(
        RegularizerConfig,
        lambda: lambda z, g: Penalty(torch.zeros(len(z)), log_p_B=-z[:, 0].abs()),
    )
    assert (
        run(contract(report)).count("the regularizer penalises nothing: it only reports figures")
        == 3
    )


@pytest.mark.parametrize("draws", [((4, 16, 16), (1,)), ((3,), (2,)), ((5,),)], ids=str)
def test_noise_of_any_draws_is_shown(draws: Any) -> None:
    case: Any = contract(config(RegularizerConfig, lambda: length))
    type(case).draws = draws
    assert {tuple(noise.shape) for noise in case.unusual().values()} == {tuple(case.noise().shape)}


class Stopping:
    @hookimpl
    def step_done(self, event: Any) -> bool:
        return bool(event.record.iteration == 1)


class First:
    @hookimpl
    def step_done(self, event: Any) -> bool:
        return True


class Late:
    """Says only at the first step that it needs a folder."""

    @hookimpl
    def step_done(self, event: Any) -> None:
        if event.run.folder is None:
            raise ConfigError("needs a run folder")


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Stopping, ""),
        (First, "stops the run before it can fail"),
        (Late, "says: needs a run folder"),
    ],
)
def test_observers_that_stop_a_run_or_need_its_folder_pass(cls: type, reason: str) -> None:
    assert any(reason in said for said in run(contract(config(ObserverConfig, cls))))


def test_what_a_plugin_lacks_is_skipped_with_a_reason() -> None:
    class Estimated(RewardConfig):
        """Without a gradient."""

        differentiable: ClassVar[bool] = False

        def build(self, ctx: Any) -> Any:
            return lambda images, prompts: mean(images, prompts).round(decimals=2)

    case = contract(Estimated())
    with pytest.raises(pytest.skip.Exception, match="differentiable = False"):
        case.test_a_gradient_reaches_the_pixels()  # type: ignore[attr-defined]
    with pytest.raises(pytest.skip.Exception, match="no installed distribution has an entry point"):
        case.test_it_can_be_asked_for_by_name()
    type(case).__module__ = Estimated.__module__
    with pytest.raises(pytest.skip.Exception, match="in the test's own file"):
        case.test_import_is_light()


def test_a_test_that_names_no_plugin_says_so() -> None:
    with pytest.raises(pytest.fail.Exception, match="TestMine names no plugin: set `config`"):
        type("TestMine", (RewardContract,), {})().test_options_survive_toml()
