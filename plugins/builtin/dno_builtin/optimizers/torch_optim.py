"""Any optimizer of `torch.optim`, with a schedule of its learning rate."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from dno.plugin import BuildContext, ConfigError, Optimizer, OptimizerConfig

Value = bool | int | float | str | list[float]

UNFIT: Final = {
    "LBFGS": "it evaluates as often as it likes within a step, through a closure",
    "SparseAdam": "it takes sparse gradients alone",
    "LambdaLR": "it takes a function, which no configuration can hold",
    "MultiplicativeLR": "it takes a function, which no configuration can hold",
    "SequentialLR": "it takes other schedules, which no configuration can hold",
    "ChainedScheduler": "it takes other schedules, which no configuration can hold",
}
"""Classes that cannot be used here, and why."""


class TorchOptim(OptimizerConfig):
    """Any class of `torch.optim`, climbing, with any schedule of `torch.optim.lr_scheduler`.

        use = "torch"
        cls = "NAdam"
        options = { lr = 0.01 }
        schedule = "CosineAnnealingLR"
        schedule_options = { T_max = 30 }

    Each sample has an optimizer and a schedule of its own, which see its gradient alone: that of
    the objective, clipped to the run's `max_grad_norm`. The schedule goes on by one an iteration;
    `ReduceLROnPlateau` is shown the objective, less of which is worse. Options that are not given
    are torch's own: some classes shrink noise by a `weight_decay` unless it is set to 0. Classes
    that need a closure, sparse gradients or matrices are refused.
    """

    cls: str = "NAdam"
    """Name of the class, such as `AdamW`, `RMSprop` or `Rprop`."""
    options: dict[str, Value] = Field(default_factory=dict)
    """Its options by torch's names, such as `lr` and `betas`."""
    schedule: str = ""
    """Name of a class of `torch.optim.lr_scheduler`; empty: the learning rate stays."""
    schedule_options: dict[str, Value] = Field(default_factory=dict)
    """Its options by torch's names."""
    decoupled: bool = False
    """Whether the class sees the rewards' gradient alone, unclipped, and the penalties' gradient p
    moves noise directly, by -lr p."""

    def check(self) -> None:
        """Refuse what cannot work with any torch; what this torch lacks, `build` says."""
        for at, name in {"cls": self.cls, "schedule": self.schedule}.items():
            if name in UNFIT:
                raise ConfigError(f"{name} cannot be used here: {UNFIT[name]}", at=at)
        if "maximize" in self.options:
            raise ConfigError("is set already: noise climbs", at="options.maximize")
        if self.schedule_options and not self.schedule:
            raise ConfigError("has options for no schedule; name one", at="schedule")

    def build(self, ctx: BuildContext) -> Optimizer:
        """The optimizer; its state lives where torch puts it.

        Raises:
            ConfigError: this torch has no such class or option, or the class does not take noise.
        """
        from dno_builtin.optimizers._torch_optim import Recipe, TorchAscent

        self.check()
        recipe = Recipe.of(
            self.cls, self.options, self.schedule, self.schedule_options, unfit=UNFIT
        )
        return TorchAscent(recipe, self.decoupled)
