"""Timings of jem beside its peers; `python -m bench` lists the commands, README.md says how to read them."""
