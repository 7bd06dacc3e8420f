"""Mixtures, and the laws of their weights."""
