"""``python -m mosaicreg``: the command line."""

from mosaicreg.cli import main

main(prog_name="mosaicreg")
