"""`python -m tunery`: the command line."""

from tunery.cli import main

main()
