"""A few small classic data sets, shipped as files with their source. Only numpy is imported."""

from importlib import resources

import numpy as np

__all__ = ["iris", "old_faithful"]


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
