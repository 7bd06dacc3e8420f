"""Arrays in, arrays out: the numerics, without models. See README.md for notation and equations."""
