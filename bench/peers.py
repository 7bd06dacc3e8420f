"""The contenders: each function prepares one package on one workload and returns what to time.

A package takes the data in its own form before the clock starts. All of them run `num_steps` EM iterations from the
same start without a prior and without a stopping test that could end the fit earlier.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sklearn.exceptions
import sklearn.mixture

import jem
from bench.harness import Runner, Unavailable, optional, place, require
from bench.problems import Params, Problem, Workload, make_problem

daal4py = optional("daal4py")
gmmx = optional("gmmx")
pomegranate = optional("pomegranate.gmm")
pomegranate_distributions = optional("pomegranate.distributions")
torch = optional("torch")


JEM_COVARIANCES = {
    "full": jem.covariance.Full,
    "diagonal": jem.covariance.Diagonal,
    "spherical": jem.covariance.Spherical,
    "tied": jem.covariance.Full,
}


def jem_read(kind: str, params: Any) -> Params:
    """jem's parameters in the form of this bench; its `.covariance` is a matrix whatever the structure."""
    covariance = np.asarray(params.components.covariance)
    if kind in ("diagonal", "spherical"):
        covariance = np.diagonal(covariance, axis1=-2, axis2=-1)
    if kind == "spherical":
        covariance = covariance[:, 0]
    return Params(np.asarray(params.weights), np.asarray(params.components.mean), covariance)


def jem_runner(problem: Problem) -> Runner:
    """`jem.fit`: `num_steps` iterations and one closing E-step, on one device or on a mesh of two."""
    workload, start = problem.workload, problem.start
    num_components = workload.num_components
    leaf = jem.Gaussian(covariance=JEM_COVARIANCES[workload.kind](), prior=None)
    child = jem.Tied(leaf, num_components, "whitening") if workload.kind == "tied" else leaf
    model = jem.Mixture(child, num_components)
    components = leaf.params(mean=jnp.asarray(start.means), covariance=jnp.asarray(start.covariances))
    params = jem.Mixture.Params(weights=jnp.asarray(start.weights), components=components)
    x = place(problem.x, workload.threads, "rows")
    stop = jem.stop.NeverStop()

    def fit() -> Any:
        return jax.block_until_ready(jem.fit(model, params, x, stop=stop, max_steps=workload.num_steps))

    return Runner(fit, lambda result: jem_read(workload.kind, result.params))


def sklearn_runner(problem: Problem) -> Runner:
    """`GaussianMixture.fit`: `max_iter` iterations and one closing E-step."""
    workload, start = problem.workload, problem.start
    if workload.kind in ("full", "tied"):
        precisions = np.linalg.inv(start.covariances.astype(np.float64))
        precisions = 0.5 * (precisions + precisions.swapaxes(-1, -2))
    else:
        precisions = 1 / start.covariances
    model = sklearn.mixture.GaussianMixture(
        workload.num_components,
        covariance_type="diag" if workload.kind == "diagonal" else workload.kind,
        tol=0.0,
        reg_covar=0.0,
        max_iter=workload.num_steps,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=precisions.astype(workload.dtype),
    )

    def fit() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
            return model.fit(problem.x)

    return Runner(fit, lambda m: Params(m.weights_, m.means_, m.covariances_))


def daal_runner(problem: Problem) -> Runner:
    """oneDAL's `em_gmm`, full and diagonal covariances."""
    workload, start = problem.workload, problem.start
    module = require(daal4py)
    if workload.kind not in ("full", "diagonal"):
        raise Unavailable("has no such covariance")
    module.daalinit(workload.threads)
    full = workload.kind == "full"
    algorithm = module.em_gmm(
        nComponents=workload.num_components,
        maxIterations=workload.num_steps,
        accuracyThreshold=0.0,
        covarianceStorage="full" if full else "diagonal",
        fptype="float" if workload.dtype == "float32" else "double",
    )
    covariances = list(start.covariances if full else start.covariances[:, None, :])

    def fit() -> Any:
        return algorithm.compute(problem.x, start.weights[None], start.means, covariances)

    def read(result: Any) -> Params:
        if int(np.ravel(result.nIterations)[0]) != workload.num_steps:
            raise Unavailable(f"made {np.ravel(result.nIterations)[0]} iterations of {workload.num_steps}")
        found = np.stack([np.asarray(c) for c in result.covariances])
        return Params(np.ravel(result.weights), np.array(result.means), found if full else found[:, 0, :])

    return Runner(fit, read)


def gmmx_runner(problem: Problem) -> Runner:
    """gmmx's `EMFitter`, full and diagonal covariances, float32."""
    workload, start = problem.workload, problem.start
    module = require(gmmx)
    if workload.kind not in ("full", "diagonal"):
        raise Unavailable("has no such covariance")
    if workload.dtype != "float32":
        raise Unavailable("float32 only")
    model = module.GaussianMixtureModelJax.from_squeezed(
        means=jnp.asarray(start.means),
        covariances=jnp.asarray(start.covariances),
        weights=jnp.asarray(start.weights),
        covariance_type="full" if workload.kind == "full" else "diag",
    )
    fitter = module.EMFitter(max_iter=workload.num_steps, tol=0.0, reg_covar=0.0)
    x = jax.device_put(problem.x)

    def read(result: Any) -> Params:
        found = result.gmm
        return Params(found.weights_numpy, found.means_numpy, found.covariances.values_numpy)

    return Runner(lambda: jax.block_until_ready(fitter.fit(x, model)), read)


def pomegranate_runner(problem: Problem) -> Runner:
    """pomegranate's `GeneralMixtureModel` of `Normal`s."""
    workload, start = problem.workload, problem.start
    module = require(pomegranate)
    if workload.kind not in ("full", "diagonal"):
        raise Unavailable("has no such covariance")
    torch.set_num_threads(workload.threads)
    covariance_type = "full" if workload.kind == "full" else "diag"
    x = torch.from_numpy(problem.x)

    def fit() -> Any:
        normals = [
            pomegranate_distributions.Normal(torch.tensor(mean), torch.tensor(covariance), covariance_type)
            for mean, covariance in zip(start.means, start.covariances, strict=True)
        ]
        model = module.GeneralMixtureModel(
            normals, priors=torch.tensor(start.weights), max_iter=workload.num_steps, tol=-math.inf
        )
        return model.fit(x)

    def read(model: Any) -> Params:
        parts = model.distributions
        means, covariances = (np.stack([getattr(d, a).numpy() for d in parts]) for a in ("means", "covs"))
        return Params(model.priors.numpy(), means, covariances)

    return Runner(fit, read)


CONTENDERS: dict[str, Callable[[Problem], Runner]] = {
    "jem": jem_runner,
    "daal4py": daal_runner,
    "scikit-learn": sklearn_runner,
    "gmmx": gmmx_runner,
    "pomegranate": pomegranate_runner,
}
# gmmx can hang at D = 128 on two cores, and wants one device and 32 bits: it always has a process of its own.
ALONE = ("gmmx",)


def make_runner(name: str, workload: Workload) -> Runner:
    """Prepare one contender."""
    return CONTENDERS[name](make_problem(workload))
