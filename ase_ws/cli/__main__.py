"""`python -m ase_ws.cli`."""

from ase_ws.cli.app import main

main()
