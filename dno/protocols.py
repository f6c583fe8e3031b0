"""What the engine calls. Anything with these methods works; no base class is needed.

Letters in tensor names and docstrings:
    B  samples optimised side by side (prompts x seeds)
    N  moving noise entries of one sample, all its draws in one row
    K  Gaussian draws of one sample          C h w  one draw's latent shape
    H W  image height and width
Noise is always float32, whatever the model computes in. Images are RGB in [0, 1], float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Generator, Tensor

State = Mapping[str, "Tensor"]
"""An optimizer's memory: tensors by name, so that it can be saved and resumed to the same bits."""


class Footprint(NamedTuple):
    """What one evaluation with gradient needs of a device's memory, and what it computes."""

    policy: str
    """What is kept for the backward pass and what is computed once more, in words."""
    weights: Mapping[str, int]
    """Bytes of the weights by part."""
    graphs: Mapping[str, int]
    """Bytes that each part's own graph takes at its most, such as network and decoder. They need
    not be there at the same time."""
    peak: int
    """Most bytes at once, weights and all that is beside included."""
    passes: float
    """Network passes for each of a plain sample: 2 where nothing is computed once more."""
    beside: Mapping[str, int] = MappingProxyType({})
    """Bytes that are there all the time and are not the sampler's, such as weights of rewards."""
    flop: float | None = None
    """Floating-point operations; None: not known."""
    room: int | None = None
    """Bytes that all may take; None: not known."""
    parked: Mapping[str, int] = MappingProxyType({})
    """Bytes of weights by part that lie on the CPU during the climb. They are on the device while
    prompts are bound, and the peak is the greater of the two."""
    binding: int | None = None
    """Most bytes at once while prompts are bound; None: no more than during the climb."""

    @property
    def missing(self) -> int:
        """Bytes by which the peak is more than what all may take."""
        return 0 if self.room is None else max(0, self.peak - self.room)


class NoiseMap(Protocol):
    """M: a sampler bound to its prompts, as a pure differentiable function of its noise.

    Called once per objective evaluation. It has no randomness of its own and nothing that one call
    leaves changes another's answer; the weights behind it are frozen; sample i depends on row i of
    the noise alone. Six attributes are optional: `network_evaluations`, the evaluations of its
    network that a call makes per sample, by which it is metered (1 a call without it);
    `medium`, what its samples are (`dno.plugin.IMAGE` and its like; without it, told from their
    shape); `coarser(steps)`, a `CoarseMap` of so many steps, or a `ConfigError` that says why
    there is none; `remedy`, what to do where a sample or its gradient is not finite, the end of
    a sentence; `footprint`, a `Footprint` by which a run is planned, or None where it would
    take a while to find out and nothing depends on it; and `climbing()`, a context manager that is
    entered for as long as a run calls it, so that what it does not call can lie elsewhere: the map
    works outside of it as well, and sampler and map may be used by other threads meanwhile.
    """

    @property
    def draws(self) -> Sequence[tuple[int, ...]]:
        """Shape of each moving Gaussian draw of one sample, in the order used; N entries in all."""
        ...

    @property
    def noise_BN(self) -> Tensor:
        """The N(0, I) draw that the bound seeds stand for: where optimisation starts."""
        ...

    def __call__(self, noise_BN: Tensor, /) -> Tensor:
        """Samples for this noise; images are `B x 3 x H x W`, RGB in [0, 1], float32."""
        ...


class CoarseMap(Protocol):
    """A bound sampler on fewer of its own timesteps, its draws on the same Brownian path.

    With W the map from fine draws to coarse ones, whose rows are orthonormal, fine noise z from
    N(0, I) gives coarse noise W z from N(0, I), and both give nearly the same samples.
    """

    @property
    def sample(self) -> NoiseMap:
        """The coarse map itself; its noise is `B x M`."""
        ...

    def coarsen(self, noise_BN: Tensor, /) -> Tensor:
        """The coarse noise of fine noise, `B x M`: W z."""
        ...

    def refine(self, noise_BN: Tensor, coarse_BM: Tensor, /) -> Tensor:
        """Fine noise whose coarse noise is `coarse_BM`, `B x N`: z + W^T (coarse - W z).

        What the coarse map cannot see stays as it is in `noise_BN`.
        """
        ...


class Sampler(Protocol):
    """A pretrained model with a fixed sampling procedure.

    One that can find noise from which it draws a given picture also has a method
    `noise_of(picture, sample) -> B x N`, of a picture of Pillow in RGB and its own bound map.

    An optional method `make_room(room)` is called before `bind`, with the `dno.plugin.Room` that it
    has on its device, so that it can choose what to keep for the backward pass.
    """

    def bind(self, prompts: Sequence[str], seeds: Sequence[int]) -> NoiseMap:
        """Encode the prompts once and draw the starting noise; sample i is `prompts[i]` from
        `seeds[i]`.
        """
        ...


class Reward(Protocol):
    """Scores samples: higher is better. Sample i is judged by image i and prompt i alone.

    Any callable of this form is a reward. One without a gradient says so with an attribute
    `differentiable = False`; without that attribute it is taken to be differentiable. One that has
    parts of its model on the CPU whatever its device, since they are asked once a prompt, lists
    those modules as `on_cpu`, so that a plan does not count them as the device's.
    """

    def __call__(self, samples: Tensor, prompts: Sequence[str], /) -> Tensor:
        """`B` finite floats for `B x 3 x H x W` images and B prompts."""
        ...


class Penalty(NamedTuple):
    """A regularizer's answer where it has more to tell than the penalty."""

    value_B: Tensor
    """Penalty of each sample, >= 0, and 0 where its noise is typical."""
    log_p_B: Tensor | None = None
    """Natural log of the probability that noise this unusual is Gaussian, <= 0; None where the
    regularizer does not know. The least of all terms decides which evaluations are healthy enough
    to be a run's best."""
    figures: Mapping[str, Tensor] = MappingProxyType({})
    """Other figures by name, `B` floats each. One named `p_...` is a p-value, uniform over Gaussian
    noise."""


class Regularizer(Protocol):
    """Measures how far noise has left N(0, I); differentiable, with its own weight in the
    objective.
    """

    def __call__(self, noise_BN: Tensor, generators: Sequence[Generator], /) -> Tensor | Penalty:
        """`B` penalties. All randomness for row i comes from `generators[i]` (CPU, fresh each
        evaluation).
        """
        ...


class Constraint(Protocol):
    """Puts noise back where N(0, I) puts it, whichever rule moved it away.

    A regularizer answers with a number that is taken off the objective; a constraint answers with
    noise, and has no weight and no gradient. It is asked after every step, every few steps, or once
    after the last, and what it puts back is where the next iteration starts. Pure: all it remembers
    is the state that `init` made of the noise that its phase starts at. An optional attribute
    `keeps` names the reported p-values (figures `p_...`) that it keeps by construction as they were
    at the start; they are then no evidence of noise that is still Gaussian.
    """

    def init(self, noise_BN: Tensor, /) -> State:
        """What it keeps of the noise where the climb starts."""
        ...

    def retract(self, noise_BN: Tensor, state: State, /) -> Tensor:
        """The noise put back, `B x N`; row i from row i alone. The start itself stays as it is."""
        ...


class Slopes(NamedTuple):
    """The objective's two parts, each with its own gradient, unclipped."""

    reward_B: Tensor
    """Weighted rewards of each sample."""
    reward_grad_BN: Tensor
    penalty_B: Tensor
    """Weighted penalties of each sample; the objective is the rewards less these."""
    penalty_grad_BN: Tensor


class Look(NamedTuple):
    """A candidate's score, with the samples that it was given for."""

    score_B: Tensor
    """What `Objective.score` says."""
    samples: Tensor
    """`B x ...`, detached; 0 for a sample that is not finite, whose score is -inf."""


class Objective(Protocol):
    """What an optimizer climbs: weighted rewards less weighted penalties, per sample.

    Every evaluation is recorded and metered by the engine; ask as often as the method needs. A
    sample that cannot be evaluated (its value is not finite, say) has a value of -inf and a
    gradient of 0; it is then kept where it was, and the others go on.
    """

    def gaussian(self) -> Tensor:
        """Fresh N(0, I) noise, `B x N`: all the randomness that a method may use.

        A function of each sample's seed, of the iteration and of the calls before it in the same
        step, so that a resumed run sees the same.
        """
        ...

    def score(self, noise_BN: Tensor, /) -> Tensor:
        """What candidates are compared by, `B`: the weighted rewards, -inf where noise has left
        N(0, I).

        Never the penalty, which scatters among ordinary draws by more than most rewards do.
        """
        ...

    def look(self, noise_BN: Tensor, /) -> Look:
        """What `score` says, with the samples; for methods that learn from what rewards were shown.

        It costs what `score` costs.
        """
        ...

    def pull(self, noise_BN: Tensor, towards: Tensor, /) -> Tensor:
        """Where a pull on the samples moves the noise, `B x N`: the gradient in the noise of the
        sum of samples times `towards`, which has their shape.

        No reward is asked; it costs a sample and its gradient. A row is 0 where that is not finite.
        """
        ...

    def value(self, noise_BN: Tensor, /) -> Tensor:
        """Objective of each sample, `B`."""
        ...

    def value_and_grad(self, noise_BN: Tensor, /) -> tuple[Tensor, Tensor]:
        """Objective `B` and its ascent direction `B x N`, clipped per sample."""
        ...

    def slopes(self, noise_BN: Tensor, /) -> Slopes:
        """Rewards and penalties apart, each with its own unclipped gradient, `B` and `B x N`.

        It costs what `value_and_grad` costs.
        """
        ...


class Optimizer(Protocol):
    """One way of climbing. Pure: all it remembers is in the state it hands back.

    Of one iteration: the engine calls `step` with the noise where the iteration starts; the
    optimizer asks the objective there or elsewhere, and returns the noise where the next iteration
    starts. The evaluation at the iteration's own noise is what the run records; the engine makes it
    where the optimizer did not. Before the first iteration, and again where another optimizer takes
    over, `init` is called.

    An optional attribute `proposes = True` says that it searches: each iteration's noise is a
    proposal, and the next does not depend on its gradient. Then a proposal that cannot be evaluated
    counts as the worst there is, and its sample goes on.
    """

    def init(self, noise_BN: Tensor, /) -> State:
        """The state before the first step."""
        ...

    def step(self, objective: Objective, noise_BN: Tensor, state: State, /) -> tuple[Tensor, State]:
        """One iteration: ask the objective, return the moved noise and the new state."""
        ...
