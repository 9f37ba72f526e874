import numba
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.training.test_batches import examples
from tunery.models.decoder import Attend
from tunery.training import stretches
from tunery.training.attention import TreeAttention, attention_over
from tunery.training.batches import Example, Tree, tree_of
from tunery.training.compiled import CompiledTreeAttention

CPU = torch.device("cpu")


def plain(tree: Tree, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """The definition: every node against every node, and only those that it sees count."""
    nodes, ends, depths = torch.arange(len(tree)), torch.from_numpy(tree.ends), torch.from_numpy(tree.depths)
    seen = (nodes[None] <= nodes[:, None]) & (nodes[:, None] < ends[None])
    if window is not None:
        seen &= depths[:, None] - depths[None] < window
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = torch.einsum("rhd,chd->hrc", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("hrc,chd->rhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


def with_gradients(attend: Attend, given: Tensor, *inputs: Tensor, window: int | None) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    mixed = attend(0, *leaves, window)
    return [mixed.detach(), *torch.autograd.grad(mixed, leaves, given)]


@settings(deadline=None, max_examples=60)
@given(
    batch=examples(),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 2), (5, 1)]),
    dim=st.sampled_from([2, 16, 31, 64, 72]),
    window=st.none() | st.integers(1, 30),
    stretch=st.sampled_from([3, 32, 70]),
)
def test_compiled_and_batched_attention_and_their_gradients_are_the_definition_s(
    batch: list[Example], heads: tuple[int, int], dim: int, window: int | None, stretch: int
) -> None:
    torch.manual_seed(0)
    tree = tree_of(batch)
    q, given = torch.randn(2, len(tree), heads[0], dim)
    k, v = torch.randn(2, len(tree), heads[1], dim)
    wide = [x.double() for x in (given, q, k, v)]
    expected = with_gradients(lambda _, q, k, v, w=None: plain(tree, q, k, v, w), *wide, window=window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stretches, "STRETCH", stretch)
        compiled = with_gradients(CompiledTreeAttention(tree), given, q, k, v, window=window)
        batched = with_gradients(TreeAttention(tree, CPU), *wide, window=window)
    for ours, theirs in zip(compiled, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(batched, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def some_tree() -> Tree:
    stem = list(range(40))
    return tree_of([Example(i, torch.tensor([*stem, i, *stem]).numpy(), torch.ones(81).numpy() > 0) for i in range(5)])


@pytest.mark.parametrize("kv_heads", [1, 2, 3, 6, 9])
def test_any_number_of_threads_gives_the_same_bits(kv_heads: int) -> None:
    tree = some_tree()
    q, given = torch.randn(2, len(tree), 18, 32)
    k, v = torch.randn(2, len(tree), kv_heads, 32)
    before, found = numba.get_num_threads(), []
    for threads in (1, numba.config.NUMBA_NUM_THREADS, 1):
        numba.set_num_threads(threads)
        found.append(with_gradients(CompiledTreeAttention(tree), given, q, k, v, window=None))
    numba.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[0], other, strict=True))


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_broken_numbers_stay_broken_in_the_rows_that_see_them(broken: float) -> None:
    tree = some_tree()
    q, k, v = torch.randn(3, len(tree), 2, 16)
    k[50, 0, 3] = broken
    mixed = CompiledTreeAttention(tree)(0, q, k, v)
    whole = plain(tree, q, k, v, None).isfinite()
    assert not whole.all()
    assert torch.equal(mixed.isfinite(), whole)


def test_compiled_loops_are_taken_for_float32_on_the_cpu_alone() -> None:
    tree = some_tree()
    assert isinstance(attention_over(tree, CPU, torch.float32), CompiledTreeAttention)
    for device, dtype in ((CPU, torch.float64), (CPU, torch.bfloat16), (torch.device("meta"), torch.float32)):
        assert isinstance(attention_over(tree, device, dtype), TreeAttention)
