"""Estimators with scikit-learn's conventions, made of what is public in jem; users import them from `jem.sklearn`."""
