"""What vLLM's engine is started with. Doesn't import vLLM."""

from collections.abc import Mapping
from typing import Any

from tunery.bases import BaseModel
from tunery.errors import InvalidRequest
from tunery.models.decoder import TARGETS
from tunery.models.probe import TOLERANCE

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""That vLLM takes as a maximum (MaxLoRARanks in its config/lora.py, 0.32)."""
MOST_LOADED = 64
"""Adapters in memory."""
MOST_LOGPROBS = 20
"""Alternatives of a token: the most that the wire allows."""
TOLERANCES = {"float32": TOLERANCE, "bfloat16": 0.5, "float16": 0.1}
"""Nats between trainer (float32) and server. Those but the first are guesses: nothing was measured."""


def engine_arguments(base: BaseModel, *, device: str, options: Mapping[str, object]) -> dict[str, Any]:
    """Keyword arguments of vLLM's EngineArgs. Raises InvalidRequest for options that would break what we promise."""
    fixed = {
        "model": base.directory,
        "tokenizer": base.directory,
        "load_format": "safetensors",
        "trust_remote_code": False,
        "generation_config": "vllm",  # not the folder's: sampling is what the request says
        "max_model_len": base.context_length,
        "max_logprobs": MOST_LOGPROBS,
        "logprobs_mode": "raw_logprobs",
        "enable_prefix_caching": True,
        "structured_outputs_config": {"backend": "guidance"},
        "enable_lora": True,
        # Not the output head: vLLM 0.32 on the CPU ends when it scores a prompt beside others through that one's LoRA.
        "lora_target_modules": list(TARGETS),
        "max_lora_rank": largest_rank(base),
        "max_cpu_loras": MOST_LOADED + 1,  # one more while all are in use; see AdapterStore
        "disable_log_stats": True,
    }
    if wrong := sorted(fixed.keys() & options.keys()):
        raise InvalidRequest(f"vllm_options may not hold {', '.join(wrong)}: Tunery sets them.", param="vllm_options")
    on_cpu = device == "cpu"
    defaults = {
        "dtype": "float32" if on_cpu else "bfloat16",
        "enforce_eager": on_cpu,
        "max_loras": 8,
        "max_num_seqs": 64 if on_cpu else 256,
    }
    arguments = {**defaults, **options, **fixed}
    if arguments["dtype"] not in TOLERANCES:
        raise InvalidRequest(
            f"vllm_options: dtype may be {', '.join(TOLERANCES)}, not '{arguments['dtype']}'.", param="vllm_options"
        )
    return arguments


def largest_rank(base: BaseModel) -> int:
    """Of an adapter. Raises InvalidRequest if vLLM takes none as large as the base's."""
    rank = next((rank for rank in LORA_RANKS if rank >= base.lora_rank), None)
    if rank is None:
        raise InvalidRequest(f"{base.name}: vLLM takes adapters up to rank {LORA_RANKS[-1]}, not {base.lora_rank}.")
    return rank


def tolerance(arguments: Mapping[str, Any]) -> float:
    """Of the proof that an adapter answers as it was trained."""
    return TOLERANCES[arguments["dtype"]]
