"""How the process of an engine is started: the embedded one, or vLLM. No torch, no HTTP."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from tunery import parent
from tunery.bases import BaseModel
from tunery.errors import EngineUnavailable, InvalidRequest
from tunery.weights import Quantization

Command = Callable[[BaseModel, Quantization | None], list[str]]
"""Of an engine for a base, without its socket. Raises EngineUnavailable for a quantization that it hasn't."""

VLLM_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # its core steps on our thread, and ends with our process
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the system shares the cores with a trainer
}


def embedded(*, threads: int, device: str) -> Command:
    """Our own engine, in this environment."""
    start = [*parent.HARDLY_SPINNING, sys.executable, "-m", "tunery.serving"]

    def command(base: BaseModel, quantization: Quantization | None) -> list[str]:
        quantized = ["--quantization", quantization] if quantization else []
        return [*start, *_common(base, threads, device), *quantized]

    return command


def vllm(python: str, *, threads: int, device: str, options: Mapping[str, object]) -> Command:
    """vLLM, in the environment of that interpreter, which has Tunery as well. `options`: see serving/vllm/options.py.

    Raises InvalidRequest if there is no such interpreter.
    """
    if not Path(python).is_file():
        raise InvalidRequest(
            f'engine = "vllm" needs the setting vllm_python: the interpreter of an environment with vLLM and Tunery. '
            f"There is none at '{python}'.",
            param="vllm_python",
        )
    environment = [f"{name}={value}" for name, value in VLLM_ENVIRONMENT.items()]
    start = [*parent.HARDLY_SPINNING, *environment, f"OMP_NUM_THREADS={threads}", python, "-m", "tunery.serving.vllm"]
    given = ["--options", msgspec.json.encode(options).decode()]

    def command(base: BaseModel, quantization: Quantization | None) -> list[str]:
        if quantization:
            raise EngineUnavailable(f"vLLM holds weights as they were trained on here, not {quantization} ones.")
        return [*start, *_common(base, threads, device), *given]

    return command


def _common(base: BaseModel, threads: int, device: str) -> list[str]:
    return ["--base", msgspec.json.encode(base).decode(), "--threads", str(threads), "--device", device]
