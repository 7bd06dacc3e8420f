"""Nodes that put a hidden variable around a child."""
