"""`python -m tunery.serving`: one process of the embedded engine; see server.py."""

from functools import partial

from tunery.serving import server
from tunery.serving.engine import Engine

if __name__ == "__main__":
    arguments = server.parser("python -m tunery.serving").parse_args()
    server.main(arguments, partial(Engine.load, device=arguments.device))
