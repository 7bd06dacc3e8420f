"""Models of which the user writes the joint density."""
