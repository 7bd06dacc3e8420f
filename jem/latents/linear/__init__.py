"""Linear-Gaussian models: factor analysis and state spaces."""
