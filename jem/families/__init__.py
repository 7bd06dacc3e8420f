"""Observation densities, one per file. See README.md for how to add one."""
