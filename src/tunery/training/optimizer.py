"""AdamW over an adapter's numbers laid end to end, and the learning rate of each step. Knows no data."""

import math

import torch
from torch import Tensor

from tunery.models.lora import Lora

LARGEST_NORM = 1.0
"""The gradient is scaled down to this length if it is longer."""
WARM_UP = 0.05
"""Part of all steps in which the learning rate rises."""
BETAS, EPSILON = (0.9, 0.999), 1e-8
STATE = ("parameters", "exp_avg", "exp_avg_sq")


class AdapterOptimizer:
    """AdamW, betas 0.9 and 0.999, epsilon 1e-8 (arXiv 1711.05101), after clipping (arXiv 1211.5063).

    One long vector in place of hundreds of small ones: one call moves them all, and one tensor is saved for them. The
    call is the one that torch.optim.AdamW makes; the class itself would load torch's compiler, 54 MiB and two seconds.
    """

    def __init__(self, lora: Lora, *, weight_decay: float = 0.0) -> None:
        """From here on `lora`'s tensors are views into this optimiser's, and collect their gradients here."""
        tensors = lora.parameters()
        self._parameters = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        self._gradient = torch.zeros_like(self._parameters)
        self._exp_avg, self._exp_avg_sq = torch.zeros_like(self._parameters), torch.zeros_like(self._parameters)
        self._steps = torch.zeros((), device=self._parameters.device)
        self._weight_decay = weight_decay
        sizes = [tensor.numel() for tensor in tensors]
        views = zip(tensors, torch.split(self._parameters, sizes), torch.split(self._gradient, sizes), strict=True)
        for tensor, values, gradient in views:
            tensor.data = values.view(tensor.shape)
            tensor.requires_grad_()
            tensor.grad = gradient.view(tensor.shape)

    def zero_grad(self) -> None:
        self._gradient.zero_()

    def step(self, learning_rate: float) -> bool:
        """Moves the adapter along the collected gradient; does nothing and says False if that isn't finite."""
        norm = torch.linalg.vector_norm(self._gradient)
        if not bool(norm.isfinite()):
            return False
        self._gradient.mul_((LARGEST_NORM / (norm + 1e-6)).clamp(max=1.0))
        self._steps += 1
        torch._fused_adamw_(
            [self._parameters],
            [self._gradient],
            [self._exp_avg],
            [self._exp_avg_sq],
            [],
            [self._steps],
            lr=learning_rate,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=self._weight_decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )
        return True

    def tensors(self) -> dict[str, Tensor]:
        """Everything a later process needs to go on, under the names of STATE."""
        return {"parameters": self._parameters, "exp_avg": self._exp_avg, "exp_avg_sq": self._exp_avg_sq}

    def restore(self, tensors: dict[str, Tensor], *, steps: int) -> None:
        """`tensors` as `tensors` gave them after `steps` steps. Raises ValueError if they are another adapter's."""
        if any(tensors[name].shape != self._parameters.shape for name in STATE):
            raise ValueError("the state is of another adapter's size")
        for name, own in self.tensors().items():
            own.copy_(tensors[name])
        self._steps.fill_(steps)


def learning_rate(step: int, *, total: int, peak: float) -> float:
    """Of step 1 to `total`: a linear rise, then half a cosine down to nearly nothing (arXiv 1608.03983)."""
    rise = math.ceil(WARM_UP * total)
    if step <= rise:
        return peak * step / (rise + 1)
    return peak * (1 + math.cos(math.pi * (step - 1 - rise) / (total - rise))) / 2
