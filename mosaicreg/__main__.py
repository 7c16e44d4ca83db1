"""``python -m mosaicreg``: the command line."""

from mosaicreg.cli import run

run()
