"""Some columns of a model, by themselves and given the others: `p(x) = p(x_given) p(x_rest | x_given)`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jem

pytestmark = pytest.mark.usefixtures("x64")

MEAN = np.array([0.5, -1.0, 2.0, 0.0])
ROOT = np.array([[1.0, 0, 0, 0], [0.8, 0.7, 0, 0], [-0.5, 0.3, 1.2, 0], [0.2, -0.4, 0.6, 0.9]])
COVARIANCE = ROOT @ ROOT.T
X = np.array([[0.1, -0.4, 2.5, 0.7], [1.5, 0.2, 1.0, -1.0]])
GIVEN, REST = [3, 1], [0, 2]
K = jem.covariance


def two(params, other):
    """Parameters of two components."""
    return jax.tree.map(lambda a, b: jnp.stack([a, b]), params, other)


def cases():
    for name, structure, cov in (
        ("full", K.Full(), COVARIANCE),
        ("diagonal", K.Diagonal(), np.diag(COVARIANCE)),
        ("spherical", K.Spherical(), np.array(1.5)),
        ("eigen", K.Eigen(), COVARIANCE),
        ("scaled", K.ScaledDiagonal(), np.diag(COVARIANCE)),
    ):
        yield f"gaussian_{name}", jem.Gaussian(structure), jem.Gaussian(structure).params(MEAN, cov)
        yield f"student_t_{name}", jem.StudentT(structure), jem.StudentT(structure).params(MEAN, cov, 4.0)
    factors = jem.FactorAnalysis(2)
    yield "factor", factors, factors.params(MEAN, ROOT[:, :2], np.ones(4))
    g = jem.Gaussian()
    parts = two(g.params(MEAN, COVARIANCE), g.params(-MEAN, np.eye(4)))
    weights = jnp.array([0.3, 0.7])
    yield "mixture", jem.Mixture(jem.Missing(g), 2), jem.Mixture.Params(weights, parts)
    tied = parts._replace(whitening=parts.whitening[0])
    yield "tied", jem.Mixture(jem.Tied(g, 2, "whitening")), jem.Mixture.Params(weights, tied)
    eigen = jem.Gaussian(K.Eigen())
    parts = two(eigen.params(MEAN, COVARIANCE), eigen.params(-MEAN, 2 * COVARIANCE))
    shared = parts._replace(whitening=parts.whitening._replace(orientation=parts.whitening.orientation[0]))
    yield "tied_parts", jem.Mixture(jem.Tied(eigen, 2, "orientation")), jem.Mixture.Params(weights, shared)



@pytest.mark.parametrize("name", [
    *(f"{family}_{structure}" for family in ("gaussian", "student_t") for structure in ("full", "diagonal", "spherical")),
    *("gaussian_eigen", "gaussian_scaled", "factor", "mixture", "tied", "tied_parts"),
])  # fmt: skip
def test_the_density_is_the_product(name):
    node, params = next((node, params) for n, node, params in cases() if n == name)
    whole = jem.log_prob(node, params, X)
    known, known_params = jem.marginal(node, params, GIVEN)
    for x, want in zip(X, whole, strict=True):
        left, left_params = jem.condition(node, params, GIVEN, x[GIVEN])
        got = jem.log_prob(known, known_params, x[None, GIVEN])[0] + jem.log_prob(left, left_params, x[None, REST])[0]
        assert float(got) == pytest.approx(float(want), rel=1e-12)


def test_moments_of_a_gaussian():
    g = jem.Gaussian()
    params = g.params(MEAN, COVARIANCE)
    _, part = jem.marginal(g, params, [2, 0])
    np.testing.assert_allclose(part.mean, MEAN[[2, 0]])
    np.testing.assert_allclose(part.covariance, COVARIANCE[np.ix_([2, 0], [2, 0])], rtol=1e-12)
    _, rest = jem.condition(g, params, GIVEN, X[0, GIVEN])
    gain = COVARIANCE[np.ix_(REST, GIVEN)] @ np.linalg.inv(COVARIANCE[np.ix_(GIVEN, GIVEN)])
    np.testing.assert_allclose(rest.mean, MEAN[REST] + gain @ (X[0, GIVEN] - MEAN[GIVEN]), rtol=1e-12)
    left = COVARIANCE[np.ix_(REST, REST)] - gain @ COVARIANCE[np.ix_(GIVEN, REST)]
    np.testing.assert_allclose(rest.covariance, left, rtol=1e-12)
    # The mean of the conditional is what imputation gives.
    holed = np.where(np.isin(np.arange(4), GIVEN), X, np.nan)
    np.testing.assert_allclose(jem.impute(jem.Missing(g), params, holed)[0, REST], rest.mean, rtol=1e-12)


def test_independent_cells_and_settings_of_columns():
    node = jem.Mixture(jem.Binomial(jnp.array([3, 5])), 2)
    params = jem.Mixture.Params(jnp.array([0.5, 0.5]), jem.Binomial.Params(jnp.array([[0.2, 0.3], [0.9, 0.8]])))
    x = np.array([[1.0, 4.0]])
    known, known_params = jem.marginal(node, params, [1])
    assert known.components.child.num_trials.tolist() == [5]
    left, left_params = jem.condition(node, params, [1], [4.0])
    assert left_params.weights[1] > 0.9
    got = jem.log_prob(known, known_params, x[:, 1:]) + jem.log_prob(left, left_params, x[:, :1])
    np.testing.assert_allclose(got, jem.log_prob(node, params, x), rtol=1e-12)


def test_a_chain_of_some_columns():
    chain = jem.HMM(jem.Gaussian(), 2)
    x = np.random.default_rng(0).standard_normal((3, 5, 2))
    params = jem.init(chain, jax.random.key(0), x)
    part, part_params = jem.marginal(chain, params, [1])
    holed = x.copy()
    holed[..., 0] = np.nan
    want = jem.log_prob(jem.HMM(jem.Missing(jem.Gaussian()), 2), params, holed)
    np.testing.assert_allclose(jem.log_prob(part, part_params, x[..., 1:]), want, rtol=1e-12)


@pytest.mark.parametrize(
    "columns, values, error, message",
    [
        ([0, 4], [0.0, 1.0], ValueError, "columns: expected different ones from 0 to 3; got .0, 4."),
        ([1, 1], [0.0, 1.0], ValueError, "columns: expected different ones"),
        ([0.5], [0.0], TypeError, "columns: expected integers"),
        ([0, 1, 2, 3], [0.0] * 4, ValueError, "all are given; at least one must be left"),
        ([0, 1], [0.0], ValueError, r"values: expected shape \(2,\), one for each column; got \(1,\)"),
        ([0], [np.nan], ValueError, "values: expected finite numbers"),
    ],
)
def test_what_is_refused(columns, values, error, message):
    g = jem.Gaussian()
    with pytest.raises(error, match=message):
        jem.condition(g, g.params(MEAN, COVARIANCE), columns, values)


def test_models_without_columns():
    with pytest.raises(TypeError, match="Dirichlet: does not say how some of its columns are distributed"):
        jem.marginal(jem.Dirichlet(), jem.Dirichlet.Params(jnp.array([1.0, 2.0])), [0])
    product = jem.Product(a=jem.Poisson(), b=jem.Poisson())
    params = {"a": jem.Poisson.Params(jnp.array([1.0])), "b": jem.Poisson.Params(jnp.array([1.0]))}
    with pytest.raises(TypeError, match="Product: its data are not rows of columns"):
        jem.marginal(product, params, [0])
