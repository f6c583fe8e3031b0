"""The Gaussian shell: what a test of Gaussian noise sees stays as the seed drew it."""

from __future__ import annotations

from pydantic import Field

from dno.plugin import BuildContext, Constraint, ConstraintConfig


class Shell(ConstraintConfig):
    """Puts noise back onto the product of spheres that its start lies on.

    The draws of one shape, K maps of C x h x w, are turned by an orthonormal transform: a DCT-II
    over the draws and a 2-D FFT over each map. Block b is what has one temporal frequency and one
    pair of spatial frequencies +-f, in all channels. Of N(0, I) noise the energies of the blocks,
    E_b = |T_b z|^2, are independent of their directions T_b z / |T_b z|; this keeps the energies of
    the start z0, and lets the directions go where the climb turned them. One round does, in turn:

    - channels: z <- A z, with A the symmetric map that takes the channels' covariance S to the
      start's S0 and moves least, S^(-1/2) (S^(1/2) S0 S^(1/2))^(1/2) S^(-1/2);
    - energies: z_b <- z_b sqrt(E_b(z0) / E_b(z));
    - draws: each is scaled to its norm in z0.

    After the rounds the energies are set once more. What is kept so, to about 1e-4: the norm, the
    power spectrum and with it the circular autocorrelation, draws that move together, the norm of
    each draw, and the covariance of channels. What stays free, and so is evidence: the mean,
    within the energy of the lowest block; skewness and kurtosis; the marginal law of all entries
    and of each draw; the variance by place; and the covariance of vectors of entries that follow
    each other in a row of noise, which is not the circular one of a whole map.

    Any shape: a draw's last two axes are a map, and those before them channels; two axes are a
    sequence of channels, and one is a line. Draws of different shapes are kept apart. Channels that
    have fewer than four entries for each channel keep no covariance: it would leave them no way to
    move.
    """

    reach: float = Field(default=25.0, ge=0)
    """Greatest distance of a sample's noise from its start, in sigmas: noise that has gone further
    is drawn back along a straight line before it is put on the spheres, and again should it then
    lie more than 1 % further. 0: no limit."""
    rounds: int = Field(default=3, ge=1)
    """How often channels, energies and draws are set, one after the other, at the least; small
    noise takes more, until all are within about 1e-4."""

    def build(self, ctx: BuildContext) -> Constraint:
        """The constraint; it computes wherever the noise is, in float32."""
        from dno_builtin._blocks import Layout
        from dno_builtin.constraints._shell import ShellRetraction

        layout = Layout(tuple(ctx.draws))
        layout.check_it_turns()
        return ShellRetraction(layout, self.reach, self.rounds)
