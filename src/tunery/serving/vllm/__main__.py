"""`python -m tunery.serving.vllm`: one process of vLLM behind Tunery's socket; see server.py."""

import contextlib
import sys

import msgspec

from tunery.bases import BaseModel
from tunery.serving import server
from tunery.serving.vllm.core import LlmCore
from tunery.serving.vllm.engine import VllmEngine
from tunery.serving.vllm.options import engine_arguments, tolerance


def main() -> None:
    parser = server.parser("python -m tunery.serving.vllm")
    parser.add_argument("--options", default="{}", help="arguments of vLLM's engine as JSON; see options.py")
    arguments = parser.parse_args()
    options = msgspec.json.decode(arguments.options, type=dict[str, str | int | float | bool])

    def load(base: BaseModel) -> VllmEngine:
        with contextlib.redirect_stdout(sys.stderr):  # our first line on it is `ready`
            given = engine_arguments(base, device=arguments.device, options=options)
            return VllmEngine.load(base, LlmCore(given), tolerance=tolerance(given))

    server.main(arguments, load)


if __name__ == "__main__":
    main()
