"""`python -m tunery.serving`: one process of the embedded engine; see server.py."""

from functools import partial

from tunery.serving import server
from tunery.serving.engine import Engine
from tunery.weights import QUANTIZATIONS

if __name__ == "__main__":
    parser = server.parser("python -m tunery.serving")
    parser.add_argument("--quantization", choices=QUANTIZATIONS, help="of the weights; without: as they are")
    arguments = parser.parse_args()
    server.main(arguments, partial(Engine.load, device=arguments.device, quantization=arguments.quantization))
