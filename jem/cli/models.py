"""The models that the command knows by name, each a row of a table."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import jem
from jem.combine.named import MCLUST, mclust
from jem.node import CELLS


class Shape(NamedTuple):
    """What a model must know of the data, and of what was asked for.

    Attributes:
        columns: names of the D columns, all different.
        num_inputs: p, 0 where there are none.
        num_categories: for each column how many categories it has, where its values are some.
        num_trials: of binomial cells.
        num_factors: of each component that has factors.
        holes: whether cells are missing.
    """

    columns: tuple[str, ...] = ()
    num_inputs: int = 0
    num_categories: tuple[int, ...] = ()
    num_trials: int = 0
    num_factors: int = 1
    holes: bool = False


ROWS, STEPS = "rows", "steps"  # what a unit is: a row, or a sequence of them


class Model(NamedTuple):
    """What a name of the table stands for.

    Attributes:
        make: the node, of the number that `-k` asks for and the shape of the data.
        counts: what `-k` counts.
        units: ROWS or STEPS.
        categories: whether the columns are categories, each a part of its own where there are several.
        inputs: whether it is a regression, which needs `--inputs`.
        trials: whether `--trials` must be said.
        holes: whether cells may be missing.
        driven: whether it takes `--inputs`, but does not need them.
        sizes: what `-k` is by default.
    """

    make: Callable[[int, Shape], Any]
    counts: str = "components"
    units: str = ROWS
    categories: bool = False
    inputs: bool = False
    trials: bool = False
    holes: bool = False
    driven: bool = False
    sizes: str = "2..8"


class Part(NamedTuple):
    """A family of components or emissions: made of the shape of the data, and what a `Model` says of it."""

    make: Callable[[Shape], Any]
    categories: bool = False
    inputs: bool = False
    trials: bool = False


def _items(shape: Shape) -> Any:
    """One of several categories in each column: a part for each, where there are several."""
    parts = [jem.Categorical(size) for size in shape.num_categories]
    parts = [jem.Missing(part) if shape.holes else part for part in parts]
    return parts[0] if len(parts) == 1 else jem.Product(**dict(zip(shape.columns, parts, strict=True)))


_Diagonal, _Spherical = jem.covariance.Diagonal(), jem.covariance.Spherical()

FAMILIES: dict[str, Part] = {
    "gaussian": Part(lambda shape: jem.Gaussian()),
    "gaussian-diag": Part(lambda shape: jem.Gaussian(covariance=_Diagonal)),
    "gaussian-spherical": Part(lambda shape: jem.Gaussian(covariance=_Spherical)),
    "t": Part(lambda shape: jem.StudentT()),
    "t-diag": Part(lambda shape: jem.StudentT(covariance=_Diagonal)),
    "t-spherical": Part(lambda shape: jem.StudentT(covariance=_Spherical)),
    "factors": Part(lambda shape: jem.FactorAnalysis(shape.num_factors)),
    "poisson": Part(lambda shape: jem.Poisson()),
    "negative-binomial": Part(lambda shape: jem.NegativeBinomial()),
    "geometric": Part(lambda shape: jem.Geometric()),
    "binomial": Part(lambda shape: jem.Binomial(shape.num_trials), trials=True),
    "beta-binomial": Part(lambda shape: jem.BetaBinomial(shape.num_trials), trials=True),
    "multinomial": Part(lambda shape: jem.Multinomial()),
    "dirichlet-multinomial": Part(lambda shape: jem.DirichletMultinomial()),
    "bernoulli": Part(lambda shape: jem.Bernoulli()),
    "categorical": Part(_items, categories=True),
    "exponential": Part(lambda shape: jem.Exponential()),
    "gamma": Part(lambda shape: jem.Gamma()),
    "inverse-gamma": Part(lambda shape: jem.InverseGamma()),
    "inverse-gaussian": Part(lambda shape: jem.InverseGaussian()),
    "log-normal": Part(lambda shape: jem.LogNormal()),
    "rayleigh": Part(lambda shape: jem.Rayleigh()),
    "weibull": Part(lambda shape: jem.Weibull()),
    "beta": Part(lambda shape: jem.Beta()),
    "dirichlet": Part(lambda shape: jem.Dirichlet()),
    "von-mises": Part(lambda shape: jem.VonMises()),
    "von-mises-fisher": Part(lambda shape: jem.VonMisesFisher()),
    "linear": Part(lambda shape: jem.Linear(), inputs=True),
    "linear-t": Part(lambda shape: jem.Linear(jem.StudentT()), inputs=True),
    "glm-poisson": Part(lambda shape: jem.GLM(jem.Poisson()), inputs=True),
    "glm-negative-binomial": Part(lambda shape: jem.GLM(jem.NegativeBinomial()), inputs=True),
    "glm-bernoulli": Part(lambda shape: jem.GLM(jem.Bernoulli()), inputs=True),
    "glm-binomial": Part(lambda shape: jem.GLM(jem.Binomial(shape.num_trials)), inputs=True, trials=True),
    "glm-gamma": Part(lambda shape: jem.GLM(jem.Gamma()), inputs=True),
}

# Other names of mixtures, those of the field.
ALIASES = {
    "gmm": "gaussian", "gmm-diag": "gaussian-diag", "gmm-spherical": "gaussian-spherical", "lca": "categorical",
    "mfa": "factors",
}  # fmt: skip


def _takes_holes(part: Part) -> bool:
    return part.categories or CELLS in part.make(Shape(num_trials=1)).traits


def _seen(node: Any, shape: Shape) -> Any:
    return jem.Missing(node) if shape.holes else node


def _mixture(part: Part) -> Model:
    def make(k: int, shape: Shape) -> Any:
        node = jem.Mixture(part.make(shape), k)
        return node if part.categories else _seen(node, shape)

    return Model(make, "components", ROWS, *part[1:], holes=_takes_holes(part))


def _chain(part: Part) -> Model:
    def make(k: int, shape: Shape) -> Any:
        emission = part.make(shape)
        return jem.HMM(emission if part.categories else _seen(emission, shape), k)

    return Model(make, "states", STEPS, *part[1:], holes=_takes_holes(part))


def _plate(components: Callable[[int], Any]) -> Model:
    return Model(lambda k, shape: _seen(jem.Mixture(components(k)), shape), holes=True)


def _factors(noise: Any) -> Model:
    make = lambda k, shape: _seen(jem.FactorAnalysis(k, noise=noise), shape)  # noqa: E731
    return Model(make, "factors", holes=True, sizes="1")


def _table() -> dict[str, Model]:
    mixtures = {name: _mixture(part) for name, part in FAMILIES.items()}
    models = {name: mixtures[same] for name, same in ALIASES.items()} | mixtures
    models["gmm-tied"] = _plate(lambda k: jem.Tied(jem.Gaussian(), k, "whitening"))
    models["t-tied"] = _plate(lambda k: jem.Tied(jem.StudentT(), k, "whitening"))
    for name in MCLUST:
        models[name] = _plate(lambda k, name=name: mclust(name, k))
        models[f"t-{name}"] = _plate(lambda k, name=name: mclust(name, k, jem.StudentT()))
    models["fa"], models["ppca"] = _factors(_Diagonal), _factors(_Spherical)
    models |= {f"hmm-{name}": _chain(part) for name, part in FAMILIES.items()}
    models["lds"] = Model(
        lambda k, shape: jem.LDS(k, len(shape.columns), shape.num_inputs), "states", STEPS, holes=True, driven=True, sizes="1"
    )
    return models


MODELS = _table()


def values_of(model: Model, x: np.ndarray, shape: Shape) -> Any:
    """Rows (N, D) as the model takes them: categories as integers, a part each."""
    if not model.categories:
        return x
    x = x if shape.holes else x.astype(np.int32)
    return x[:, 0] if x.shape[1] == 1 else dict(zip(shape.columns, x.T, strict=True))
