"""`python -m tunery.serving`: one engine process; see server.py."""

from tunery.serving.server import main

main()
