"""State-space models beside published answers: the Nile, and Johnson & Johnson's earnings."""

import json

import jax
import jax.numpy as jnp
import numpy as np

import jem

nan = np.nan


def load(cases, name):
    """A case's series as one sequence, and what is expected of it."""
    case = json.loads((cases / f"{name}.json").read_text())
    return case, jnp.asarray(case["data"]["y"], float)[None, :, None]


def assert_expected(case, got):
    for name, value in got.items():
        want = case["expected"][name]
        np.testing.assert_allclose(value, want["value"], rtol=want.get("rtol", 0), atol=want["atol"], err_msg=name)


def test_nile(x64, cases):
    case, y = load(cases, "ssm_nile")
    init = case["init"]
    level = jem.LDS(1, 1, Q=jem.covariance.Diagonal(), R=jem.covariance.Diagonal(), fixed={"A": [[1]], "C": [[1]]})
    model = jem.Frozen(level, "m0", "chol_P0")
    start = level.params(m0=[init["m1"]], P0=[[init["P1"]]], R=[init["R"]], Q=[init["Q"]])
    first = jem.fit(model, start, y, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=3000)
    iterates, params = [], start
    for _ in range(4):
        iterates.append([float(params.R[0, 0]), float(params.Q[0, 0])])
        params = jem.em_step(model, params, y)[0]
    assert_expected(
        case,
        {
            "em_first_iterates": iterates,
            "em_loglik_first": first.trace[:3],
            "var_obs": first.params.R[0, 0],
            "var_level": first.params.Q[0, 0],
            "loglik": first.log_likelihood,
        },
    )
    quick = jem.fit(model, start, y)  # as it comes
    assert quick.converged
    assert_expected(
        case, {"var_obs": quick.params.R[0, 0], "var_level": quick.params.Q[0, 0], "loglik": quick.log_likelihood}
    )
    # A prior as wide as this is the diffuse one: its likelihood less the first observation's own.
    wide = 1e11
    diffuse = start._replace(chol_P0=jnp.full((1, 1), wide**0.5))
    fit = jem.fit(model, diffuse, y)
    assert fit.converged
    assert_expected(
        case,
        {
            "diffuse_var_obs": fit.params.R[0, 0],
            "diffuse_var_level": fit.params.Q[0, 0],
            "diffuse_loglik_99_terms": fit.log_likelihood + 0.5 * np.log(2 * np.pi * wide),
        },
    )


def test_johnson_johnson(x64, cases):
    """The observation noise goes to zero, where EM comes near only sublinearly: from noise held there, it arrives."""
    case, y = load(cases, "ssm_johnson_johnson")
    init, text = case["init"], {k: v.get("published") for k, v in case["expected"].items()}
    A = np.array([[nan, 0, 0, 0], [0, -1, -1, -1], [0, 1, 0, 0], [0, 0, 1, 0]])
    diagonal = jem.covariance.Diagonal()
    seasonal = jem.LDS(4, 1, Q=diagonal, R=diagonal, fixed={"A": A, "C": [[1, 1, 0, 0]], "Q": [nan, nan, 0, 0]})
    y = jnp.concatenate([jnp.full((1, 1, 1), nan), y], 1)  # the first state is that before the first observation

    def params(phi, sd_trend, sd_season, sd_obs):
        variances = [sd_trend**2, sd_season**2, 0, 0]
        moves = np.nan_to_num(A, nan=phi)
        return seasonal.params(A=moves, Q=variances, R=[sd_obs**2], m0=init["mu0"], P0=np.diag(init["Sigma0_diag"]))

    at_text = params(text["phi"], text["sd_trend"], text["sd_season"], 0.0004655672)  # its sd_obs as printed
    assert_expected(case, {"loglik_at_text_estimates": jem.log_prob(seasonal, at_text, y)[0]})
    start = params(**init["start"])
    free = jem.Frozen(seasonal, "m0", "chol_P0")
    quick = jem.fit(free, start, y)  # as it comes
    assert quick.converged
    got = {"phi": quick.params.A[0, 0], "sd_trend": quick.params.chol_Q[0, 0], "sd_season": quick.params.chol_Q[1, 0]}
    assert_expected(case, got | {"loglik": quick.log_likelihood})
    fit = jem.fit(free, start, y, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=2000)
    assert float(fit.log_likelihood) > case["expected"]["loglik"]["value"] - 0.1
    assert np.nanmin(np.diff(np.asarray(fit.trace))) > -1e-9
    held = jem.Frozen(seasonal, "m0", "chol_P0", "chol_R")
    start = start._replace(chol_R=jnp.full((1, 1), 1e-6))
    fit = jem.fit(held, start, y, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=2000)
    got = {"phi": fit.params.A[0, 0], "sd_trend": fit.params.chol_Q[0, 0], "sd_season": fit.params.chol_Q[1, 0]}
    assert_expected(case, got | {"loglik": fit.log_likelihood})


def test_nile_in_float32(cases):
    """The same answer without double precision, from the same start."""
    case, y = load(cases, "ssm_nile")
    init = case["init"]
    level = jem.LDS(1, 1, Q=jem.covariance.Diagonal(), R=jem.covariance.Diagonal(), fixed={"A": [[1]], "C": [[1]]})
    start = level.params(m0=[init["m1"]], P0=[[init["P1"]]], R=[init["R"]], Q=[init["Q"]])
    held = jem.Frozen(level, "m0", "chol_P0")
    fit = jem.fit(held, start, y, solver=jem.solvers.EM(), stop=jem.stop.NeverStop(), max_steps=3000)
    assert fit.log_likelihood.dtype == jnp.float32
    assert abs(float(fit.log_likelihood) / case["expected"]["loglik"]["value"] - 1) < 1e-6
    assert jax.tree.all(jax.tree.map(lambda a: bool(jnp.isfinite(a).all()), fit.params))
