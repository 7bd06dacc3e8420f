"""A few small classic data sets, shipped as files with their source. Only numpy is imported."""

from importlib import resources

import numpy as np

__all__ = ["earthquakes", "iris", "nile", "old_faithful"]


def _read(name: str) -> np.ndarray:
    with resources.files(__name__).joinpath(name).open(encoding="utf-8") as file:
        return np.loadtxt(file, delimiter=",", skiprows=1)


def old_faithful() -> np.ndarray:
    """Eruption lengths and waiting times of the Old Faithful geyser, Yellowstone, August 1985.

    Returns:
        float64 array (272, 2): the length of an eruption [min] and the wait for the next one [min].

    Example:
        >>> from jem import datasets
        >>> datasets.old_faithful()[:2]
        array([[ 3.6, 79. ],
               [ 1.8, 54. ]])

    Source:
        Azzalini and Bowman (1990), A look at some data on the Old Faithful geyser, Applied Statistics 39, 357-365;
        the R data set `faithful`.
    """
    return _read("old_faithful.csv")


def iris() -> tuple[np.ndarray, np.ndarray]:
    """Four measurements of 50 irises of each of three species, with the species.

    Returns:
        `(x, species)`: float64 array (150, 4) of sepal length and width, petal length and width [cm]; integer array
        (150,), 0 for setosa, 1 for versicolor, 2 for virginica.

    Example:
        >>> from jem import datasets
        >>> x, species = datasets.iris()
        >>> x[0], int(species[0])
        (array([5.1, 3.5, 1.4, 0.2]), 0)

    Source:
        Fisher (1936), The use of multiple measurements in taxonomic problems, Annals of Eugenics 7, 179-188, from
        measurements by Anderson (1935); the R data set `iris`.
    """
    table = _read("iris.csv")
    return table[:, :4], table[:, 4].astype(np.int64)


def earthquakes() -> tuple[np.ndarray, np.ndarray]:
    """Numbers of major earthquakes (magnitude 7 or more) in the world, year by year.

    Returns:
        `(years, counts)`: integer arrays (107,), 1900 to 2006.

    Example:
        >>> from jem import datasets
        >>> years, counts = datasets.earthquakes()
        >>> int(years[0]), int(counts[0])
        (1900, 13)

    Source:
        US Geological Survey, as printed in Zucchini and MacDonald (2009), Hidden Markov Models for Time Series, table 1.1.
    """
    table = _read("earthquakes.csv").astype(np.int64)
    return table[:, 0], table[:, 1]


def nile() -> tuple[np.ndarray, np.ndarray]:
    """Annual flow of the Nile at Aswan.

    Returns:
        `(years, flow)`: integer array (100,), 1871 to 1970, and float64 array (100,) [1e8 m^3].

    Example:
        >>> from jem import datasets
        >>> years, flow = datasets.nile()
        >>> int(years[0]), float(flow[0])
        (1871, 1120.0)

    Source:
        Cobb (1978), The problem of the Nile, Biometrika 65, 243-251; the R data set `Nile`.
    """
    table = _read("nile.csv")
    return table[:, 0].astype(np.int64), table[:, 1]
