"""Estimators with scikit-learn's and hmmlearn's names: `from jem.sklearn import GaussianMixture`."""

try:
    import sklearn.base as _base
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "sklearn":
        raise
    raise ModuleNotFoundError("jem.sklearn needs scikit-learn: pip install 'jem[sklearn]'", name="sklearn") from None

from jem.estimators.chains import CategoricalHMM as CategoricalHMM
from jem.estimators.chains import GaussianHMM as GaussianHMM
from jem.estimators.chains import PoissonHMM as PoissonHMM
from jem.estimators.classes import LatentClassAnalysis as LatentClassAnalysis
from jem.estimators.factor import FactorAnalysis as FactorAnalysis
from jem.estimators.generic import Estimator as Estimator
from jem.estimators.mixtures import GaussianMixture as GaussianMixture
from jem.estimators.mixtures import StudentTMixture as StudentTMixture
from jem.estimators.regression import MixtureOfRegressions as MixtureOfRegressions

del _base
