"""Hidden Markov models, and the laws by which states begin and move."""
