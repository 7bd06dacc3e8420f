"""Pictures of fits and models; `jem.plot` is their door."""
