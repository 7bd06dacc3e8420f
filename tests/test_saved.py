"""Saved fits: they come back to the bit, of this model only, and a file that is wrong is refused by name."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import ZOO, start_form

import jem
from jem.io.saved import said_of


def a_fit(row, seed=0):
    """A fit with numbers of no meaning, in records such as those of a fit of this row."""
    rng = np.random.default_rng(seed)
    fill = lambda s: jnp.asarray(rng.standard_normal(s.shape), s.dtype)  # noqa: E731
    scalars = [jnp.float32(rng.standard_normal()) for _ in range(8)]
    trace = jnp.asarray([1.0, jnp.nan, -jnp.inf])
    status, steps, refusals = (jnp.int32(i) for i in (3, 17, 2))
    params = jax.tree.map(fill, start_form(row.name))
    return jem.Fit(params, status, steps, *scalars[:2], trace, refusals, *scalars[2:5], remaining=scalars[5])


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, two in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("row", ZOO, ids=lambda row: row.name)
def test_every_row_comes_back(row, tmp_path):
    fit = a_fit(row)
    jem.save(tmp_path / "fit", row.node, fit)
    same(jem.load(tmp_path / "fit", row.node), fit)
    assert [p.name for p in tmp_path.iterdir()] == ["fit"]


def test_rows_are_told_apart(tmp_path):
    """Models of the zoo say the same of themselves only where they are the same; some rows differ in their data alone."""
    said = {json.dumps(said_of(row.node)): repr(row.node) for row in ZOO}
    assert len(said) == len({repr(row.node) for row in ZOO})


X = np.array([[0.0, 1.0], [1.0, 3.0], [7.0, 2.0], [8.0, 9.0]], "float32")


@pytest.fixture(scope="module")
def fitted():
    model = jem.Mixture(jem.Gaussian(prior=jem.priors.InverseWishart(0.1)), 2)
    return model, jem.fit(model, jem.init(model, jax.random.key(0), X), X)


def test_a_fit_goes_on(fitted, tmp_path):
    model, fit = fitted
    jem.save(str(tmp_path / "fit.jem"), model, fit)
    again = jem.load(str(tmp_path / "fit.jem"), model)
    same(again, fit)
    assert jem.fit(model, again.params, X).converged
    assert str(again) == str(fit)


@pytest.mark.parametrize(
    "other, where",
    [
        (jem.Mixture(jem.Gaussian(prior=jem.priors.InverseWishart(0.2)), 2), r"child.prior.strength is 0.1; here it is 0.2"),
        (jem.Mixture(jem.Gaussian(prior=jem.priors.InverseWishart(0.1)), 3), r"components.size is 2; here it is 3"),
        (jem.Mixture(jem.StudentT(), 2), r"components.child is Gaussian; here it is StudentT"),
        (jem.Gaussian(), r"its model is Mixture; here it is Gaussian"),
        (jem.Mixture(jem.Gaussian(jem.covariance.Diagonal()), 2), r"child.covariance is Full; here it is Diagonal"),
    ],
)
def test_of_another_model(fitted, tmp_path, other, where):
    model, fit = fitted
    jem.save(tmp_path / "fit", model, fit)
    with pytest.raises(ValueError, match=f"fit holds a fit of another model: .*{where}"):
        jem.load(tmp_path / "fit", other)


def test_damaged_files(fitted, tmp_path):
    model, fit = fitted
    path = tmp_path / "fit"
    jem.save(path, model, fit)
    whole = path.read_bytes()
    wrong = [whole[:n] for n in (0, 10, len(whole) // 2, len(whole) - 1)] + [b"x,y\n1,2\n", b"PK\x03\x04", b"\x80\x04}."]
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 60):  # a bit that is not as it was
        wrong.append(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
    refused = 0
    for data in wrong:
        path.write_bytes(data)
        try:
            same(jem.load(path, model), fit)  # what is not looked at, such as a date
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > len(wrong) // 2
    with pytest.raises(FileNotFoundError):
        jem.load(tmp_path / "nothing", model)


def rewritten(path, change):
    """The file with another page about it."""
    with np.load(path) as archive:
        members = dict(archive)
    about = json.loads(members["about"].tobytes())
    change(about)
    members["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with path.open("wb") as file:
        np.savez(file, **members)


def test_what_is_not_read(fitted, tmp_path):
    model, fit = fitted
    path = tmp_path / "fit"

    def written(change):
        jem.save(path, model, fit)
        rewritten(path, change)

    written(lambda about: about.update(format=99))
    with pytest.raises(ValueError, match="format 99 by a later jem"):
        jem.load(path, model)
    # Only records of modules that are imported, with the same fields: nothing is called.
    for name in (["os", "system"], ["builtins", "eval"], ["nowhere", "Params"], ["jem.families.gaussian", "Gaussian"]):
        written(lambda about, name=name: about["fit"]["fields"]["params"].update(record=name))
        with pytest.raises(ValueError, match=f"holds a record {name[0]}.{name[1]}"):
            jem.load(path, model)
    # A pickle in the place of an array is not opened.
    with np.load(path) as archive:
        members = dict(archive)
    jem.save(path, model, fit)
    with path.open("wb") as file:
        np.savez(file, **{**members, "0": np.array([print], object)})
    with pytest.raises(ValueError, match="fit"):
        jem.load(path, model)


def test_what_cannot_be_saved(fitted, tmp_path):
    model, fit = fitted
    with pytest.raises(TypeError, match="fit: expected a jem.Fit; got"):
        jem.save(tmp_path / "fit", model, fit.params)
    with pytest.raises(TypeError, match="model"):
        jem.save(tmp_path / "fit", jem.Gaussian, fit)
    with pytest.raises(TypeError, match=r"save: fit.params: only arrays of numbers are saved; got"):
        jem.save(tmp_path / "fit", model, fit._replace(params=jax.random.key(0)))
    assert not list(tmp_path.iterdir())


def test_float64_is_not_lost(fitted, tmp_path):
    model, fit = fitted
    jem.save(tmp_path / "fit", model, fit._replace(objective=np.float64(1.0)))
    with pytest.raises(ValueError, match="holds float64, and JAX is not set to it"):
        jem.load(tmp_path / "fit", model)
