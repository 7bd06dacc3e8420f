"""Makes gallery.md and its pictures: `python docs/gallery.py`. With `--text` the page alone, which needs no fit."""

import pathlib
import sys
from typing import NamedTuple

import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).resolve().parent
PRELUDE = "import jax, jax.numpy as jnp, numpy as np, matplotlib.pyplot as plt\nimport jem, jem.plot\n"
HEAD = """# Gallery

One model each: what it is, the lines that fit it, what they draw. Every snippet begins with

```python
import jax, jax.numpy as jnp, numpy as np, matplotlib.pyplot as plt
import jem, jem.plot
```

and draws on the axes `ax`. Which model for what: [models.md](models.md). The page is made by `python docs/gallery.py`.
"""


class Entry(NamedTuple):
    """A model: the name of its picture, a title, what it says, and the code that fits and draws it."""

    name: str
    title: str
    says: str
    code: str


ENTRIES = [
    Entry("mixture", "Mixture of Gaussians", "Two kinds of eruptions; ellipses at one and two deviations.", """
x = jem.datasets.old_faithful()
model = jem.Mixture(jem.Gaussian(), 2)
best = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=8).best()
jem.plot.clusters(model, best.params, x, ax=ax)
"""),
    Entry("student_t", "Heavy tails", "Outliers get small weights, so that they move no centre.", """
rng = np.random.default_rng(1)
x = np.r_[rng.normal(0, 1, (150, 2)), rng.normal(5, 0.7, (100, 2)), rng.uniform(-8, 14, (25, 2))]
model = jem.Mixture(jem.StudentT(), 2)
best = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=8).best()
jem.plot.clusters(model, best.params, x, ax=ax)
"""),
    Entry("noise", "Clusters and noise", "What belongs to no cluster belongs to a box.", """
rng = np.random.default_rng(1)
x = np.r_[rng.normal(0, 1, (150, 2)), rng.normal(5, 0.7, (100, 2)), rng.uniform(-8, 14, (40, 2))]
model = jem.Mixture(jem.OneOf(jem.Stack(jem.Gaussian(), 2), jem.Uniform()))
best = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=8).best()
r = jem.infer(model, best.params, x)[0].responsibilities
ax.scatter(*x.T, s=9, c=r.argmax(1), cmap="viridis")
"""),
    Entry("structures", "Structures of covariance", "BIC over the number of components, for three of the fourteen.", """
x, _ = jem.datasets.iris()
kinds = [(name, k) for name in ("EEE", "VII", "VVV") for k in (2, 3, 4)]
models = {f"{name} {k}": jem.Mixture(jem.covariance.mclust(name, k)) for name, k in kinds}
table = jem.sweep(models, jax.random.key(0), x, num_restarts=8)
jem.plot.selection(table, ax=ax)
"""),
    Entry("counts", "Counts of two kinds", "More spread than a Poisson law: negative binomial components.", """
rng = np.random.default_rng(2)
x = rng.poisson(rng.gamma(3, 1, 500) * np.where(rng.random(500) < 0.6, 1.0, 7.0))[:, None]
model = jem.Mixture(jem.NegativeBinomial(), 2)
best = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=8).best()
at = jnp.arange(x.max() + 1)[:, None]
ax.hist(x[:, 0], bins=np.arange(x.max() + 2) - 0.5, density=True, alpha=0.4)
ax.plot(at[:, 0], jnp.exp(jem.log_prob(model, best.params, at)), "o-", markersize=3)
"""),
    Entry("classes", "Latent classes", "Chances of each answer, by class; some answers are missing.", """
rng = np.random.default_rng(3)
chances = np.array([[0.9, 0.8, 0.7, 0.2, 0.1, 0.2], [0.2, 0.1, 0.3, 0.8, 0.9, 0.6], [0.8, 0.2, 0.8, 0.2, 0.8, 0.9]])
x = (rng.random((600, 6)) < chances[rng.integers(0, 3, 600)]).astype(float)
x[rng.random(x.shape) < 0.1] = np.nan
model = jem.Mixture(jem.Missing(jem.Bernoulli()), 3)
best = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=16).best()
ax.imshow(best.params.components.probs, vmin=0, vmax=1, cmap="Blues")
ax.set(xlabel="item", ylabel="class", yticks=range(3))
"""),
    Entry("regressions", "Mixture of regressions", "Two curves at once, each row near one of them.", """
rng = np.random.default_rng(4)
u = rng.uniform(0, 10, 300)
y = np.where(rng.random(300) < 0.5, 5 * u, 40 - (u - 5) ** 2) + rng.normal(0, 3, 300)
x = jem.Given(y[:, None], np.c_[u, u**2])
model = jem.Mixture(jem.Linear(), 2)
best = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=8).best()
at = np.linspace(0, 10, 100)
c = best.params.components
ax.scatter(u, y, s=6, color="gray")
ax.plot(at, np.c_[at, at**2] @ c.coef[:, 0].T + c.intercept[:, 0])
"""),
    Entry("experts", "Weights that depend on an input", "Which line a row is near changes along the input.", """
rng = np.random.default_rng(5)
u = rng.uniform(-3, 3, (400, 1))
first = rng.random((400, 1)) < 1 / (1 + np.exp(-3 * u))
x = jem.Given(np.where(first, 1 + 2 * u, -1 - u) + 0.4 * rng.standard_normal((400, 1)), u)
model = jem.Mixture(jem.Linear(), 2, weights=jem.laws.Logistic())
best = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=8).best()
ax.scatter(u, x.outputs, s=6, c=jem.infer(model, best.params, x)[0].responsibilities[:, 0], cmap="coolwarm")
"""),
    Entry("choices", "One of several, from inputs", "Multinomial logistic regression: which iris, from a petal's length.", """
rows, kind = jem.datasets.iris()
x = jem.Given(kind, rows[:, 2:3])
model = jem.GLM(jem.Categorical(3), ridge=0.01)
fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x).check()
at = np.linspace(1, 7, 200)
eta = np.c_[np.zeros(200), at[:, None] @ fit.params.coef.T + fit.params.intercept]
ax.plot(at, jax.nn.softmax(eta, 1))
ax.set(xlabel="length of a petal", ylabel="chances")
"""),
    Entry("missing", "Missing cells", "Half of a column is gone; what it was is expected on the lines of the clusters.", """
x = jem.datasets.old_faithful().copy()
x[::2, 1] = np.nan
model = jem.Mixture(jem.Missing(jem.Gaussian()), 2)
best = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=8).best()
full = jem.impute(model, best.params, x)
ax.scatter(*x[1::2].T, s=9, label="seen")
ax.scatter(*full[::2].T, s=9, label="expected")
ax.legend()
"""),
    Entry("lifetimes", "Censored lifetimes", "Lives longer than the study; the curve is the survival fitted.", """
rng = np.random.default_rng(6)
time = rng.weibull(1.7, 200)[:, None] * 5
x = jem.Interval.right(np.minimum(time, 4.0), censored=time > 4.0)
model = jem.Censored(jem.Weibull())
fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x).check()
at = np.linspace(0.01, 12, 100)
beyond = jem.Interval(jnp.asarray(at[:, None]), jnp.full((100, 1), jnp.inf))
ax.plot(at, jnp.exp(jem.log_prob(model, fit.params, beyond)))
ax.plot(np.sort(time[:, 0]), 1 - np.arange(200) / 200, drawstyle="steps", color="gray")
ax.axvline(4.0, linestyle=":")
"""),
    Entry("chain", "Hidden Markov model", "Years of few and of many earthquakes, and the state of each year.", """
years, counts = jem.datasets.earthquakes()
x = counts[None, :, None]
model = jem.HMM(jem.Poisson(), 3)
best = jem.fit_restarts(model, jax.random.key(0), x, num_restarts=16).best()
jem.plot.states(model, best.params, x, ax=ax)
"""),
    Entry("inputs", "A chain that inputs move", "The chance of staying depends on an input of each step.", """
rng = np.random.default_rng(7)
u, state = rng.standard_normal((30, 60, 1)), np.zeros((30, 60, 1), int)
for t in range(1, 60):
    leans = np.where(state[:, t - 1] == 0, -2 + 2 * u[:, t], 2 + 2 * u[:, t])
    state[:, t] = rng.random((30, 1)) < 1 / (1 + np.exp(-leans))
x = jem.Given(rng.poisson(np.where(state, 6, 1)).astype(float), u)
model = jem.HMM(jem.Poisson(), 2, transition=jem.laws.LogisticCells())
fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x).check()
at, law = np.linspace(-3, 3, 100), fit.params.transition
to = 1 / (1 + np.exp(-(law.coef[:, 0] * at + law.intercept)))
ax.plot(at, to.T)
ax.set(xlabel="input", ylabel="chance of the second state next")
"""),
    Entry("durations", "Stays that are not geometric", "How long a state lasts has a law of its own: semi-Markov.", """
rng = np.random.default_rng(8)
state = np.concatenate([np.full(rng.poisson(6) + 1, i % 2) for i in range(60)])[:360].reshape(6, 60)
x = (rng.normal(3.0 * state, 1.0))[..., None]
model = jem.HMM(jem.Gaussian(), 2, transition=jem.laws.Durations(jem.durations.Categorical(15)))
fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x).check()
jem.plot.states(model, fit.params, x, ax=ax)
"""),
    Entry("level", "Local level", "The flow of the Nile: the level that is behind it, with its band.", """
years, flow = jem.datasets.nile()
x = flow[None, :, None]
diagonal = jem.covariance.Diagonal()
model = jem.LDS(1, 1, Q=diagonal, R=diagonal, P0=diagonal, fixed={"A": [[1]], "C": [[1]], "m0": [1000], "P0": [1e6]})
fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x)
jem.plot.signal(model, fit.params, x, ax=ax)
"""),
    Entry("factors", "Factor analysis", "Two factors behind six measurements, turned by varimax.", """
rng = np.random.default_rng(9)
loadings = np.array([[1, 0.9, 0.8, 0, 0, 0], [0, 0, 0, 1, 0.8, 0.9]])
x = rng.standard_normal((400, 2)) @ loadings + 0.5 * rng.standard_normal((400, 6))
model = jem.FactorAnalysis(2)
fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x).check()
ax.imshow(jem.rotations.varimax(fit.params.loadings)[0].T, cmap="RdBu", vmin=-1, vmax=1)
ax.set(xlabel="measurement", ylabel="factor", yticks=range(2))
"""),
    Entry("own", "A density of your own", "Two kinds of reaction times, normal plus exponential, by a formula.", """
rng = np.random.default_rng(10)
x = rng.normal(0.3, 0.03, 400) + rng.exponential(np.where(rng.random(400) < 0.5, 0.05, 0.25))

def log_ex_gaussian(p, x):
    z = (x - p["mean"]) / p["scale"] - p["rate"] * p["scale"]
    above = p["rate"] * (p["mean"] - x) + (p["rate"] * p["scale"]) ** 2 / 2
    return jnp.log(p["rate"]) + above + jax.scipy.stats.norm.logcdf(z)

positive = jem.supports.Positive()
start = {"mean": jnp.array(0.3), "scale": jnp.array(0.05), "rate": jnp.array(8.0)}
leaf = jem.Density(log_ex_gaussian, start, supports={"mean": jem.supports.Real(), "scale": positive, "rate": positive})
model = jem.Mixture(jem.Tied(leaf, 2, "mean", "scale"))
import optax
fit = jem.fit(model, jem.init(model, jax.random.key(0), x), x, solver=jem.solvers.GEM(optax.lbfgs))
at = np.linspace(0.2, 1.5, 200)
ax.hist(x, bins=60, density=True, alpha=0.4)
ax.plot(at, jnp.exp(jem.log_prob(model, fit.params, at)))
"""),
    Entry("bound", "The bound that EM climbs", "Which coin it was is hidden: [theory.md](theory.md) has the numbers.", """
x = jnp.array([[5.0], [9.0], [8.0], [4.0], [7.0]])
model = jem.Mixture(jem.Binomial(10), 2)
start = jem.Mixture.Params(jnp.array([0.5, 0.5]), jem.Binomial.Params(jnp.array([[0.6], [0.5]])))
jem.plot.bound(model, start, x, num_steps=6, ax=ax)
"""),
]


def page() -> str:
    """The text of gallery.md."""
    code = "```python\n{}\n```"
    parts = [
        f"## {e.title}\n\n{e.says}\n\n{code.format(e.code.strip())}\n\n![{e.title}](images/{e.name}.png)\n" for e in ENTRIES
    ]
    return "\n".join([HEAD, *parts])


def draw(entry: Entry, path: pathlib.Path) -> None:
    """Runs the code of one entry and keeps its picture."""
    figure, ax = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    space = {"ax": ax, "__name__": "gallery"}
    exec(PRELUDE + entry.code, space)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    """Writes the page, and the pictures of the entries that are named, or of all."""
    (HERE / "gallery.md").write_text(page())
    names = sys.argv[1:]
    if names == ["--text"]:
        return
    (HERE / "images").mkdir(exist_ok=True)
    for entry in ENTRIES:
        if not names or entry.name in names:
            print(entry.name, flush=True)
            draw(entry, HERE / "images" / f"{entry.name}.png")


if __name__ == "__main__":
    main()
