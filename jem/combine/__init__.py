"""Nodes made of nodes: repeated, tied, side by side, held, with gaps."""
