"""The answer to a `PlanOrder`: a plan from some of the examples, and how fast this machine multiplies matrices."""

import math
import time

import torch

from tunery.messages import Planned, PlanOrder
from tunery.models.tokenizer import Tokenizer
from tunery.training import data
from tunery.training.memory import available_bytes
from tunery.training.plan import plan, sizes_of

ROWS = 256
"""Of the measured product: about the nodes of one batch's tree."""
MEASURED_SECONDS = 0.4


def answered(question: PlanOrder) -> Planned:
    """Raises InvalidRequest, naming file and line, for what can't be trained."""
    order = question.order
    sizes = sizes_of(order)
    planned = plan(
        order,
        data.sample(order, Tokenizer.load(order.base.directory)),
        available=order.memory_bytes or available_bytes(order.device),
        examples=(question.training_examples, question.validation_examples),
    )
    config = sizes.config
    measured = _gemm_flops(config.hidden_size, config.intermediate_size, order.device) if question.measure else None
    return Planned(plan=planned, gemm_flops=measured)


def _gemm_flops(inputs: int, outputs: int, device: str) -> float:
    """Operations a second of the model's largest linear layer; the best of some products, for other work disturbs."""
    x, weight = torch.randn(ROWS, inputs, device=device), torch.randn(outputs, inputs, device=device)
    best, began = math.inf, time.monotonic()
    while time.monotonic() - began < MEASURED_SECONDS:
        start = time.perf_counter()
        product = torch.nn.functional.linear(x, weight)
        product[0, 0].item()  # waits for a GPU
        best = min(best, time.perf_counter() - start)
    return 2.0 * ROWS * inputs * outputs / best
