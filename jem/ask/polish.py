"""Where the parameters of a fit lead to, and the information there: what every question about uncertainty rests on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jem import tree
from jem.ask.room import room_of
from jem.backend import precise
from jem.engine.coded import Coded
from jem.engine.score import Curvature, Target, complete_information, level, natural, start_of, take_apart, target
from jem.node import Data, Node, Params

FAR = 0.15  # standard errors that parameters may be off a maximum: 0.01 nats below it, some ten times what a fit leaves
_MANY = 40  # Newton steps at most
_SHARE = 0.7  # of the way to an edge, at most, in one step; what runs away does 0.63


class InformationStatus(Coded):
    """Whether an information matrix can be turned into standard errors."""

    REGULAR = 0, "the parameters are at a maximum inside of their domain and the data identify all of them"
    BOUNDARY = (
        1,
        "some parameters are at, or on their way to, the edge of their domain (a probability or a variance of zero), where no "
        "standard error exists: theirs is NaN; use jem.uncertainty.profile_interval or jem.bootstrap",
    )
    SINGULAR = (
        2,
        "there are directions the data say nothing about (equal or empty components, rotations, too many parameters): "
        "standard errors of what moves along them are NaN; use a smaller model, a prior, or functions that do not move",
    )
    NOT_AT_MAXIMUM = (
        3,
        "the parameters are not at a maximum of the objective, or at a saddle point: fit to a smaller tolerance first, "
        "stop=jem.stop.Remaining(1e-6)",
    )
    NONFINITE = 4, "the information is not finite; look for parameters on the edge of their domain"


class Parts(NamedTuple):
    """What a method finds: the information, or with `meat` the covariance `information^+ meat information^+`."""

    information: Array
    meat: Array | None = None


class Asked(NamedTuple):
    """A model laid out with its data, and its information where a fit's parameters lead to, taken apart.

    Attributes:
        target: the model and its data.
        z: (n,) free coordinates of the maximum: the parameters, polished.
        score: (n,) at z.
        complete: (n, n) complete-data information at z.
        parts: what the method found at z.
        curvature: the information at z, taken apart.
        given: (n,) the score at the parameters themselves.
        distance: from them to z, in standard errors.
    """

    target: Target
    z: Array
    score: Array
    complete: Array
    parts: Parts
    curvature: Curvature
    given: Array
    distance: Array


class _Look(NamedTuple):
    z: Array
    score: Array
    objective: Array
    complete: Array
    parts: Parts
    curvature: Curvature
    length: Array  # of the Newton step from here, in standard errors


class _Polishing(NamedTuple):
    step: Array
    z: Array  # where to look next
    first: _Look
    now: _Look
    damping: Array
    going: Array


def ask(method: Any, model: Node, params: Params, x: Data, weights: Array | None) -> Asked:
    """The information by a method where Newton steps on the score lead from the parameters of a fit.

    A fit stops a little off its maximum, and the information there is off by about as much: along a ridge, where there is
    none, it shows some. Steps are made until the smallest curvature is told from none, with curvatures raised by as much as
    they are off (Yamashita and Fukushima, 2001: fast on ridges too). Parameters further off than what a fit leaves stay.
    """
    t = target(model, x, weights, params)
    start = start_of(t)
    eps = jnp.finfo(start.dtype).eps
    unit = jnp.sqrt(jnp.maximum(t.total_weight, 1))  # a distance over it is by how much the information is off

    @jax.jit
    @precise
    def look(z: Array) -> _Look:
        here = level(t, z)
        parts, complete = method.parts(t, z), complete_information(t, z, here.stats)
        c = take_apart(t, z, parts.information, complete)
        return _Look(z, here.score, here.objective, complete, parts, c, _length(c, here.score))

    def body(s: _Polishing) -> _Polishing:
        new = look(s.z)
        begun = s.step == 0
        slack = 64 * eps * jnp.abs(s.now.objective)
        ok = begun | (jnp.isfinite(new.length) & (new.objective >= s.now.objective - slack))
        now, first = tree.where(ok, new, s.now), tree.where(begun, new, s.first)
        damping = jnp.where(ok, jnp.maximum(s.damping / 4, 1), 16 * s.damping)
        off = now.length / unit
        told = (off <= eps**0.5) | (jnp.min(jnp.abs(now.curvature.values), initial=jnp.inf) > 100 * off)
        move = _shortened(t, now.z, now.curvature.ascend(now.score, damping * off))
        return _Polishing(s.step + 1, now.z + move, first, now, damping, (first.length <= FAR) & ~told)

    blank = tree.zeros_like(jax.eval_shape(look, start))
    begin = _Polishing(jnp.array(0), start, blank, blank, jnp.ones((), start.dtype), jnp.array(True))
    end = lax.while_loop(lambda s: s.going & (s.step < _MANY), body, begin)
    found = end.now
    # What cannot be told from no curvature is none.
    off = jnp.where(end.first.length <= FAR, found.length / unit, 0)
    flat = jnp.maximum(eps ** (2 / 3), 8 * off)
    c = found.curvature._replace(tolerance=flat.astype(start.dtype))
    # A climb that went on, or came to no end, did not begin at a maximum either.
    gain = found.objective - end.first.objective - 64 * eps * jnp.abs(found.objective)
    distance = jnp.maximum(end.first.length, jnp.sqrt(2 * jnp.maximum(gain, 0)))
    distance = jnp.where(end.going, jnp.maximum(distance, found.length), distance)
    return Asked(t, found.z, found.score, found.complete, found.parts, c, end.first.score, distance)


def _length(c: Curvature, score: Array) -> Array:
    """Distance to the maximum in standard errors; NaN where something is not finite."""
    length = jnp.sqrt(jnp.maximum(c.ascend(score) @ score, 0))
    return jnp.where(jnp.all(jnp.isfinite(c.values)) & jnp.all(jnp.isfinite(score)), length, jnp.nan)


def _shortened(t: Target, z: Array, move: Array) -> Array:
    """The move, short enough to leave every parameter some way to the edge of its domain: where it is flat, moves are long."""
    room, _ = room_of(t, z)
    share = jnp.max(jnp.abs(natural(t, z + move) - natural(t, z)) / room, initial=0.0, where=room > 0)
    return move * jnp.where(share > _SHARE, _SHARE / share, 1)


def status_of(asked: Asked) -> Array:
    """The status, as far as it does not depend on what is asked about."""
    c = asked.curvature
    status = jnp.where(c.num_flat > 0, InformationStatus.SINGULAR, InformationStatus.REGULAR)
    status = jnp.where((asked.distance > FAR) | (c.num_rising > 0), InformationStatus.NOT_AT_MAXIMUM, status)
    finite = jnp.isfinite(asked.distance) & tree.all_finite((c.values, asked.parts))
    return jnp.where(finite, status, InformationStatus.NONFINITE).astype(jnp.int32)
