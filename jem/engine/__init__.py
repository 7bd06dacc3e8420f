"""The loop around a node's E-step and M-step. It never imports a model. See README.md for the life of one fit."""
