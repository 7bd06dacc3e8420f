"""The reference cases with missing cells, at the defaults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_logjoint_cases import load
from test_written_cases import check

import jem

pytestmark = pytest.mark.usefixtures("x64")


def rows(case):
    """The data, NaN where missing."""
    return np.array([[np.nan if v is None else v for v in row] for row in case["data"]["X"]], float)


@pytest.mark.parametrize("name", ["missing_apple", "missing_airquality"])
def test_one_normal(cases, name):
    case = load(cases, name)
    x = rows(case)
    model = jem.Missing(jem.Gaussian())
    fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x).check()
    check(case, "loglik", fit.log_likelihood)
    check(case, "mean", fit.params.mean)
    check(case, "cov", fit.params.covariance)


def test_two_normals(cases):
    case = load(cases, "gmm_missing_pima")
    x = rows(case)
    model = jem.Mixture(jem.Missing(jem.Gaussian()), 2)
    known = jem.Labelled(x, jnp.asarray(case["init"]["class"]) - min(case["init"]["class"]))
    start = jem.fit(model, jem.init(model, jax.random.key(0), known), known, max_steps=3).params
    fit = jem.fit(model, start, x, stop=jem.stop.Remaining(1e-9)).check()
    order = jnp.argsort(-fit.params.weights)
    check(case, "loglik", fit.log_likelihood)
    check(case, "weights", fit.params.weights[order])
    check(case, "means", fit.params.components.mean[order])
    check(case, "covariances", fit.params.components.covariance[order])
