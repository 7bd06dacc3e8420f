"""Shorter steps, and a rule that ends them: a solver around a solver, and a stopping rule."""

from typing import Any

import jax

import jem
from jem.author import Around, Rule, node


@node
class Damped(Around):
    """Goes a part `rate` of the way of another solver's step, 0 < rate <= 1."""

    solver: Any = jem.solvers.EM()
    rate: Any = 0.5

    def step(self, model, seen, state):
        ahead, state = super().step(model, seen, state)
        nearer = jax.tree.map(lambda p, q: p + self.rate * (q - p), seen.params, ahead.candidate)
        return ahead._replace(candidate=nearer), state


@node
class GainPerUnit(Rule):
    """Stops where a plain step gains no more than `nats` per unit of weight."""

    nats: Any = 1e-6

    def converged(self, progress):
        return (progress.gain <= self.nats * progress.total_weight) & (progress.plain > 0)


x, model = jem.datasets.old_faithful(), jem.Mixture(jem.Gaussian(), 2)
fits = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=4, solver=Damped(), stop=GainPerUnit(1e-7))
print(jem.Status(fits.best().status).name)
