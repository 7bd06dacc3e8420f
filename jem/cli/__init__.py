"""The command behind `python -m jem`."""

from jem.cli.command import main as main
