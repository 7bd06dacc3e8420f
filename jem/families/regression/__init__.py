"""Regressions: families of `jem.Given(outputs, inputs)`."""
