"""Covariances of parts: their factors, their M-steps against maxima found otherwise, and fits of what shares them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree

import jem
from jem.kernels import turns
from jem.kernels.covariance import Pseudo

DIM, NUM, COPIES = 3, 9, 3
STRUCTURES = {"eigen": jem.covariance.Eigen(), "scaled": jem.covariance.ScaledDiagonal()}
structures = pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES.keys())
SHARED = {
    f"{name} {'-'.join(shared) or 'nothing'}": (name, shared)
    for name, structure in STRUCTURES.items()
    for num in range(len(structure.parts) + 1)
    for shared in itertools.combinations(structure.parts, num)
}


def close(got, want, rtol=1e-10):
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=rtol, atol=1e-12)


def draw(structure, seed=1):
    """A covariance as a user gives it, its whitening, and both as matrices."""
    root = np.random.default_rng(seed).normal(size=(DIM, DIM)) + np.diag([2.0, 1.0, 0.5])
    given = {2: root @ root.T, 1: np.diagonal(root) ** 2}[len(structure.covariance_shape(DIM))]
    w = structure.whitening(jnp.asarray(given), DIM)
    return given if given.ndim == 2 else np.diag(given), w, np.asarray(structure.times(w, jnp.eye(DIM)))


@structures
def test_a_factor_is_its_matrix(x64, structure):
    covariance, w, matrix = draw(structure)
    vectors = np.random.default_rng(2).normal(size=(DIM, NUM))
    close(w.covariance(), covariance)
    close(matrix @ covariance @ matrix.T, np.eye(DIM))
    close(structure.solve(w, jnp.asarray(vectors)), np.linalg.solve(matrix, vectors))
    close(structure.log_det(w, DIM), np.linalg.slogdet(matrix)[1])
    close(w.volume, np.linalg.det(covariance) ** (-0.5 / DIM))
    close(np.prod(w.shape), 1)
    assert float(structure.condition(w)) >= 1


@structures
def test_second_moments_change_with_the_factor(x64, structure):
    _, w, matrix = draw(structure)
    _, other, new = draw(structure, 5)
    s = np.diag([1.0, 2.0, 3.0]) if structure == STRUCTURES["scaled"] else matrix @ matrix.T
    a = new @ np.linalg.inv(matrix)
    close(structure.change(other, w, structure.restrict(jnp.asarray(s))), structure.restrict(jnp.asarray(a @ s @ a.T)))
    deviation = np.array([0.5, 1.0, 2.0])
    seen = matrix @ np.diag(deviation**2) @ matrix.T
    close(structure.seen(w, jnp.asarray(deviation)), structure.restrict(jnp.asarray(seen)))
    close(structure.shares(w, jnp.asarray(deviation)), np.diagonal(seen))


def test_every_axis_meets_every_other_once_a_sweep():
    for dim in range(2, 8):
        pairs = [tuple(pair) for each in turns.rounds(dim) for pair in each.T]
        assert sorted(pairs) == list(itertools.combinations(range(dim), 2))
        assert all(len(set(each.ravel())) == each.size for each in turns.rounds(dim))


def test_sweeps_find_eigenvectors(x64):
    """Of graded matrices to the last digits of the small eigenvalues, and where eigenvalues are equal."""
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    for values in ([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 1.0, 1.0, 2.0, 2.0], [1e-6, 1e-3, 1.0, 10.0, 100.0]):
        t, axes = jnp.asarray(q @ np.diag(values) @ q.T)[None], jnp.eye(5)[None]
        for _ in range(8):
            t, axes = turns.sweep(t, axes, turns.each)
        close(np.sort(np.diagonal(np.asarray(t[0]))), values, 1e-9)
        close(axes[0].T @ axes[0], np.eye(5))
        close(axes[0] @ t[0] @ axes[0].T, q @ np.diag(values) @ q.T)


def problem(structure, shared, strength):
    """Scatters of copies in the coordinates of a start, Q of any factors, and the start, as `tie` takes it."""
    rng = np.random.default_rng(4)
    starts = [draw(structure, seed)[1] for seed in (1, 5, 6)]
    w = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    w = w._replace(**{part: getattr(w, part)[0] for part in shared})
    z = jnp.asarray(rng.normal(size=(COPIES, DIM, NUM)) * np.array([0.5, 1.0, 2.0])[:, None, None])
    weights = jnp.asarray(rng.random((COPIES, NUM)))
    count, scatter = jnp.sum(weights, 1), jax.vmap(structure.moments)(z, weights).second
    prior = None if strength is None else Pseudo(jnp.asarray(strength), jnp.asarray([0.5, 1.0, 2.0]), jnp.zeros(DIM))
    axes = structure.axes(shared) if len(shared) < len(structure.parts) else None

    def q_of(new):
        def one(new, old, count, scatter):
            value = count * structure.log_det(new, DIM) - 0.5 * structure.trace(structure.change(new, old, scatter), DIM)
            return value if prior is None else value + structure.log_prior(new, prior, DIM)

        return jnp.sum(jax.vmap(one, (axes, axes, 0, 0), axis_size=COPIES)(new, w, count, scatter))

    def step(now):
        """An M-step from factors; the scatter is in the coordinates of those."""
        moved = jax.vmap(structure.change, (axes, axes, 0), axis_size=COPIES)(now, w, scatter)
        return structure.tie(now, count, moved, prior, DIM, shared)

    return w, jax.jit(q_of), jax.jit(step)


@pytest.mark.parametrize("kind", SHARED)
def test_m_steps_climb_to_the_maximum(x64, kind):
    """What a search of the free coordinates finds from many starts, with a prior; no step is lower than the last."""
    name, shared = SHARED[kind]
    structure = STRUCTURES[name]
    now, q_of, step = problem(structure, shared, 0.7)
    supports, values = structure.support(), [q_of(now)]
    start = now
    for _ in range(40):
        now = step(now)
        values.append(q_of(now))
    assert np.all(np.diff(values) > -1e-10)
    flat, back = ravel_pytree(jax.tree.map(lambda s, v: s.unconstrain(v), supports, start))
    at = lambda z: jax.tree.map(lambda s, f, v: s.constrain(f, v), supports, back(z), start)
    value_and_slope = jax.jit(jax.value_and_grad(lambda z: -q_of(at(z))))
    rng = np.random.default_rng(0)
    found = [
        scipy.optimize.minimize(value_and_slope, np.asarray(flat) + rng.normal(size=flat.size), jac=True, method="BFGS").fun
        for _ in range(12)
    ]
    assert float(values[-1]) == pytest.approx(-min(found), abs=1e-6)
    assert values[-1] > values[0] + 0.1  # the control


def two_clusters(offset=0.0):
    """Rows of two clusters with the same axes, and data that float32 holds exactly wherever they are."""
    rng = np.random.default_rng(3)
    axes = np.linalg.qr(rng.normal(size=(2, 2)))[0]
    x = rng.normal(size=(200, 2)) * np.where(np.arange(200)[:, None] < 80, [3.0, 0.3], [0.5, 2.0]) @ axes.T
    x[:80] += [4.0, 4.0]
    return np.round(x * 256) / 256 + offset


def labelled_start(model, x, first):
    """The M-step from hard labels: the first so many rows are of component 0."""
    units = jnp.asarray(x).T
    start = model.init(jax.random.key(0), units, jnp.ones(len(x), units.dtype))
    hard = jnp.asarray(np.stack([np.arange(len(x)) < first, np.arange(len(x)) >= first]), units.dtype)
    stats = model.components.expect(start.components, (), units, hard)
    return start._replace(weights=jnp.mean(hard, 1), components=model.components.maximize(start.components, stats))


def some_steps(dtype, offset):
    """Parameters and log-likelihood after three steps of EM from the labels."""
    model = jem.Mixture(jem.covariance.mclust("VVE", 2, jem.Gaussian()))
    x = jnp.asarray(two_clusters(offset), dtype)

    @jax.jit
    def step(params):
        posterior, log_prob = model.infer(params, x.T)
        return model.maximize(params, model.expect(params, posterior, x.T, jnp.ones(len(x), dtype))), jnp.sum(log_prob)

    params = labelled_start(model, x, 80)
    for _ in range(3):
        params, value = step(params)
    return params.components, float(value)


def test_float32_far_from_the_origin(x64):
    want, height = some_steps("float64", 0.0)
    got, value = some_steps("float32", 4096.0)
    assert got.whitening.orientation.dtype == jnp.float32
    assert value == pytest.approx(height, abs=0.05)
    close(got.covariance, want.covariance, 2e-3)
    close(got.mean - 4096, want.mean, 1e-2)


def test_what_collapses_is_held():
    """A component of rows that are all the same: finite, and said to be so."""
    x = two_clusters()
    x[:80] = 5.0
    x = jnp.asarray(x, "float32")
    model = jem.bind(jem.Mixture(jem.covariance.mclust("VVE", 2, jem.Gaussian())), x)
    fit = jem.fit(model, labelled_start(model, x, 80), x)
    assert fit.status == jem.Status.DEGENERATE
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit.params))


def test_standard_errors_are_those_of_theory(x64):
    """Of variances l_j along the axes, `var log l_j = 2 / N`, and of the angle `l_1 l_2 / (N (l_1 - l_2)^2)`."""
    x = jnp.asarray(two_clusters()[80:])
    model = jem.Gaussian(jem.covariance.Eigen())
    start = jem.init(model, jax.random.key(0), x)
    params = jem.bind(model, x).maximize(start, model.expect(start, (), x.T, jnp.ones(len(x))))
    errors = jem.standard_errors(model, params, x).check().errors.whitening
    w, num = params.whitening, len(x)
    close(errors.volume, w.volume / np.sqrt(4 * num), 1e-6)
    close(errors.shape, w.shape / np.sqrt(4 * num), 1e-6)
    variances = np.asarray(w.volume * w.shape) ** -2.0
    angle = np.sqrt(variances.prod() / num) / abs(variances[0] - variances[1])
    close(errors.orientation, np.abs(np.asarray(w.orientation))[:, ::-1] * angle, 1e-6)


def test_student_t_with_common_axes(x64):
    """A step never falls, far-out rows weigh little, and the scale matrices have the axes they share."""
    model = jem.Mixture(jem.covariance.mclust("VVE", 2, jem.StudentT()))
    x = two_clusters()
    x[::20] += 40.0
    start = jem.init(model, jax.random.key(1), x)
    fit = jem.fit(model, start, jnp.asarray(x), solver=jem.solvers.EM(), max_steps=300)
    assert np.all(np.diff(np.asarray(fit.trace)[: int(fit.num_steps)]) > -1e-9)
    first, second = np.asarray(fit.params.components.scale_matrix)
    close(first @ second, second @ first, 1e-8)
    assert jem.num_parameters(model, fit.params) == 1 + 4 + 2 + 2 + 1 + 2


def test_components_change_places():
    model = jem.Mixture(jem.Tied(jem.Gaussian(jem.covariance.Eigen()), 2, "shape"))
    x = jnp.asarray(two_clusters(), "float32")
    params = jem.init(model, jax.random.key(0), x)
    turned = model.permute(params, jnp.array([1, 0]))
    np.testing.assert_allclose(jem.log_prob(model, turned, x), jem.log_prob(model, params, x), rtol=1e-5)
    assert turned.components.whitening.shape.shape == (2,)


def test_names_of_mclust():
    with pytest.raises(ValueError, match="mclust: expected one of EII, .*VVV; got 'VVX'"):
        jem.covariance.mclust("VVX", 2)
    with pytest.raises(TypeError, match="mclust: family: expected a jem.Gaussian"):
        jem.covariance.mclust("VVV", 2, jem.Poisson())
    with pytest.raises(ValueError, match="no field 'volume'.*jem.covariance.Eigen"):
        jem.init(jem.Mixture(jem.Tied(jem.Gaussian(), 2, "volume")), jax.random.key(0), two_clusters())


def test_parts_that_there_are_not():
    structure = STRUCTURES["scaled"]
    w = jax.tree.map(lambda a: jnp.stack([a, a]), structure.from_diagonal(jnp.ones(DIM)))
    with pytest.raises(ValueError, match="ScaledDiagonal.*share some of .*got .*'orientation'"):
        structure.tie(w, jnp.ones(2), jnp.ones((2, DIM, 1)), None, DIM, ("orientation",))
