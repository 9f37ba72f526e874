"""A short run that shows whether a foreign model is computed right when its tokens form a tree. Knows no transformers.

Sixteen tokens, and after them once more the last eight, as a second branch from the eighth token: a model whose tokens
meet in its attention alone says the same of both branches, and the same as its own code says of the plain sequence.
"""

from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunery.errors import InvalidRequest
from tunery.models.decoder import LowRank, Model

_LENGTH = 16
_BRANCH = 8
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Largest difference, by the largest logit; half precision gets _COARSE."""
_COARSE = 0.1


def expected_logits(model: Any, vocab_size: int) -> Tensor:
    """[_LENGTH, V] of a PreTrainedModel with the attention that it has now."""
    with torch.inference_mode():
        logits: Tensor = model(input_ids=_ids(vocab_size).to(model.device)[None], use_cache=False).logits[0]
    return logits


def compare(model: Model, expected: Tensor, windows: list[bool]) -> tuple[int, int]:
    """(key heads, head size), the same in all layers. `windows`: which layers have one, by their config.

    Raises InvalidRequest if the model doesn't give the logits expected, or isn't made as our caches and adapters need.
    """
    places = torch.tensor([*range(_LENGTH), *range(_LENGTH - _BRANCH, _LENGTH)], device=model.device)
    seen, counts = _Seen(places), _Counts(len(places))
    with torch.inference_mode():
        ids = _ids(model.config.vocab_size).to(model.device)[places]
        logits = model.logits(model.hidden(ids, places, seen, counts))
    sizes = seen.check(model.config.num_hidden_layers, windows)
    counts.check(model.config.layout.targets)
    limit = _TOLERANCE.get(model.dtype, _COARSE) * float(expected.abs().max())
    if not logits.isfinite().all():
        raise InvalidRequest("The model's output isn't finite.")
    if float((logits - expected[places]).abs().max()) > limit:
        raise InvalidRequest(
            "Its tokens meet elsewhere than in plain attention (recurrent layers, convolutions, positions of its own), "
            "which isn't supported."
        )
    return sizes


def _ids(vocab_size: int) -> Tensor:
    return (torch.arange(_LENGTH) * 7 + 3) % vocab_size


class _Seen:
    """The `Attend` of the tree, which notes what it is asked."""

    def __init__(self, places: Tensor) -> None:
        rows = torch.arange(len(places), device=places.device)
        other = (rows[:, None] >= _LENGTH) & (rows >= _LENGTH - _BRANCH) & (rows < _LENGTH)
        self._visible = (rows <= rows[:, None]) & ~other
        self._distance = places[:, None] - places
        self._asked: dict[int, tuple[int, int, int | None]] = {}

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int | None = None, /) -> Tensor:
        self._asked[layer] = (k.shape[1], k.shape[2], window)
        visible = self._visible if window is None else self._visible & (self._distance < window)
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=True)
        return mixed.squeeze(0).transpose(0, 1)

    def check(self, num_layers: int, windows: list[bool]) -> tuple[int, int]:
        if sorted(self._asked) != list(range(num_layers)):
            raise InvalidRequest(
                f"Only {len(self._asked)} of its {num_layers} layers have attention that can be replaced "
                "(transformers' AttentionInterface)."
            )
        for layer, windowed in enumerate(windows):
            if windowed and self._asked[layer][2] is None:
                raise InvalidRequest("It has a sliding window that it doesn't hand on, which isn't supported.")
        sizes = {asked[:2] for asked in self._asked.values()}
        if len(sizes) > 1:
            raise InvalidRequest("Its layers have keys of different sizes, which isn't supported.")
        return sizes.pop()


class _Counts(LowRank):
    """Adds nothing, and counts."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._calls: Counter[str] = Counter()

    def add(self, _block: int, group: str, x: Tensor, y: Tensor, /) -> Tensor:
        self._calls[group] += 1
        if len(x) != self._num_rows:
            self._calls[group] += 1
        return y

    def check(self, targets: tuple[str, ...]) -> None:
        for target in targets:
            if self._calls[target] != 1:
                raise InvalidRequest(
                    f"Its linear layer {target} doesn't see every token once (a mixture of experts, another "
                    "modality), so it can't carry an adapter; this isn't supported."
                )
