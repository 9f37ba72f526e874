from pathlib import Path

import pytest
import torch

from tests.models.test_lora import trained
from tunery.models.lora import Lora
from tunery.training.optimizer import AdapterOptimizer, learning_rate


def copied(adapter: Lora) -> Lora:
    return Lora(adapter.config, adapter.rank, adapter.scale, {n: t.clone() for n, t in adapter.tensors().items()})


def set_gradients(adapter: Lora, step: int) -> None:
    for number, parameter in enumerate(adapter.parameters()):
        gradient = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * step + number))
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad.copy_(gradient)


def test_it_moves_as_torchs_adamw_with_clipping(tiny: Path) -> None:
    adapter = trained(tiny)
    reference = copied(adapter)
    adam = torch.optim.AdamW([p.requires_grad_() for p in reference.parameters()], weight_decay=0.0)
    optimizer = AdapterOptimizer(adapter)
    for step, rate in enumerate([1e-2, 3e-2, 2e-2], start=1):
        set_gradients(adapter, step)
        set_gradients(reference, step)
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        adam.param_groups[0]["lr"] = rate
        adam.step()
        assert optimizer.step(rate)
    for ours, theirs in zip(adapter.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_gradients_of_several_backward_passes_add_up_until_reset(tiny: Path) -> None:
    adapter = trained(tiny)
    optimizer = AdapterOptimizer(adapter)
    parameter = adapter.parameters()[0]
    for expected in (1.0, 2.0):
        parameter.sum().backward()
        assert torch.all(parameter.grad == expected)
    optimizer.zero_grad()
    assert all(torch.all(p.grad == 0) for p in adapter.parameters())


def test_a_gradient_that_is_not_finite_moves_nothing(tiny: Path) -> None:
    adapter = trained(tiny)
    optimizer = AdapterOptimizer(adapter)
    before = [parameter.detach().clone() for parameter in adapter.parameters()]
    adapter.parameters()[3].grad.fill_(float("nan"))
    assert not optimizer.step(1e-3)
    assert all(torch.equal(*pair) for pair in zip(before, adapter.parameters(), strict=True))


def test_a_restored_optimiser_goes_on_bit_for_bit(tiny: Path) -> None:
    adapter = trained(tiny)
    whole = AdapterOptimizer(adapter)
    for step in (1, 2):
        set_gradients(adapter, step)
        whole.step(1e-2)
    saved = {name: tensor.clone() for name, tensor in whole.tensors().items()}
    other = trained(tiny, seed=9)
    resumed = AdapterOptimizer(other)
    resumed.restore(saved, steps=2)
    for each, optimizer in ((adapter, whole), (other, resumed)):
        set_gradients(each, 3)
        optimizer.step(1e-2)
    assert all(torch.equal(*pair) for pair in zip(adapter.parameters(), other.parameters(), strict=True))


def test_a_state_of_another_size_is_refused(tiny: Path) -> None:
    optimizer = AdapterOptimizer(trained(tiny))
    with pytest.raises(ValueError, match="another adapter"):
        optimizer.restore({name: torch.zeros(3) for name in ("parameters", "exp_avg", "exp_avg_sq")}, steps=1)


def test_the_learning_rate_rises_and_then_falls_to_nearly_nothing() -> None:
    rates = [learning_rate(step, total=100, peak=1.0) for step in range(1, 101)]
    top = rates.index(max(rates))
    assert rates[0] > 0
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) == 1.0
    assert 4 <= top <= 6
    assert 0 < rates[-1] < 1e-3


@pytest.mark.parametrize("total", [1, 2, 3])
def test_the_shortest_runs_learn_too(total: int) -> None:
    assert all(learning_rate(step, total=total, peak=1.0) >= 0.25 for step in range(1, total + 1))
