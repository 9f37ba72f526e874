"""Adapters in memory, found by digest, and their part in a batch. Knows no request and no schedule.

Adapters that running sequences use stay; of the others the least recently used make room when the limit is reached.
Files are read on a thread of their own, so that others decode meanwhile.
"""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import torch
from torch import Tensor

from tunery.errors import EngineUnavailable
from tunery.messages import Adapter
from tunery.models import lora
from tunery.models.decoder import ModelConfig
from tunery.models.lora import Lora

MOST_LOADING = 2
"""Adapters read ahead; each is held beside those in memory until it is wanted."""


class ServedAdapter:
    """An adapter as two matrices for each group of linear layers: x @ down @ up is what it adds."""

    def __init__(self, adapter: Lora) -> None:
        blocks, groups = range(adapter.layout.num_blocks), adapter.layout.groups
        self.down = {group: [adapter.a[group][i].T.contiguous() for i in blocks] for group in groups}
        """[in, members * rank]"""
        self.up = {
            group: [_block_diagonal([adapter.b[t][i].T for t in members]) * adapter.scale for i in blocks]
            for group, members in groups.items()
        }
        """[members * rank, out], scale included"""

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for side in (self.down, self.up) for stack in side.values() for tensor in stack)


class BatchLora:
    """The `LowRank` of one step: rows of the batch are grouped by adapter, each group gets its own term."""

    def __init__(self, spans: Sequence[tuple[ServedAdapter, int, int]]) -> None:
        """`spans` are (adapter, first row, row after the last); rows in no span are the base's."""
        self._spans = spans

    def add(self, block: int, group: str, x: Tensor, y: Tensor) -> Tensor:
        """In place: y is the base's fresh output."""
        for adapter, start, end in self._spans:
            y[start:end].addmm_(x[start:end] @ adapter.down[group][block], adapter.up[group][block])
        return y


class AdapterStore:
    """Adapters by digest, `max_bytes` of them at most and, while all of those are in use, one more.

    An adapter is loaded when the first request that needs it is about to run, and pinned while requests run.
    """

    def __init__(self, config: ModelConfig, *, max_bytes: int, device: torch.device, dtype: torch.dtype) -> None:
        self._config = config
        self._max_bytes = max_bytes
        self._device = device
        self._dtype = dtype
        self._loaded: OrderedDict[str, ServedAdapter] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._pins: Counter[str] = Counter()
        self._loader = ThreadPoolExecutor(1, "adapters")
        self._loading: dict[str, Future[ServedAdapter]] = {}

    @property
    def digests(self) -> list[str]:
        """Of the adapters in memory, the one to go first in front."""
        return list(self._loaded)

    @property
    def nbytes(self) -> int:
        return sum(adapter.nbytes for adapter in self._loaded.values())

    @property
    def num_pinned(self) -> int:
        return len(self._pins)

    def ready(self, adapter: Adapter) -> bool:
        """`get` would answer at once. If not, the adapter is being loaded from now on, or when its turn comes."""
        digest = adapter.digest
        if digest in self._loaded:
            return True
        self._adopt(except_for=digest)
        if digest not in self._loading and len(self._loading) < MOST_LOADING:
            self._loading[digest] = self._loader.submit(self._load, adapter)
        return digest in self._loading and self._loading[digest].done()

    def wait(self, seconds: float) -> None:
        """Until one of those being loaded is there."""
        wait(self._loading.values(), seconds, FIRST_COMPLETED)

    def fits(self, adapter: Adapter) -> bool:
        """One more sequence may use it now: all that are in use stay within the limit."""
        if not self._pins or adapter.digest in self._pins:
            return True
        return sum(self._sizes.get(digest, 0) for digest in (*self._pins, adapter.digest)) <= self._max_bytes

    def pin(self, adapter: Adapter) -> None:
        self._pins[adapter.digest] += 1

    def unpin(self, adapter: Adapter) -> None:
        self._pins[adapter.digest] -= 1
        if not self._pins[adapter.digest]:
            del self._pins[adapter.digest]

    def get(self, adapter: Adapter) -> ServedAdapter:
        """From memory or from its folder. Raises InvalidRequest or EngineUnavailable if it isn't what it should be."""
        digest = adapter.digest
        if digest not in self._loaded:
            loading = self._loading.pop(digest, None)
            self._take(digest, loading.result() if loading else self._load(adapter))
        self._loaded.move_to_end(digest)
        return self._loaded[digest]

    def close(self) -> None:
        self._loader.shutdown(cancel_futures=True)

    def _adopt(self, *, except_for: str) -> None:
        """Those that are there, but whoever wanted them has gone meanwhile: their places are needed."""
        for digest in [digest for digest, future in self._loading.items() if future.done() and digest != except_for]:
            future = self._loading.pop(digest)
            if future.exception() is None:
                self._take(digest, future.result())

    def _take(self, digest: str, loaded: ServedAdapter) -> None:
        self._make_room(loaded.nbytes)
        self._loaded[digest] = loaded
        self._sizes[digest] = loaded.nbytes

    def _load(self, adapter: Adapter) -> ServedAdapter:
        try:
            digest = lora.digest(adapter.directory)
        except OSError as error:
            raise EngineUnavailable(f"The adapter can't be read: {error.strerror}.") from error
        if digest != adapter.digest:
            raise EngineUnavailable(f"The adapter on disk has the digest {digest}, not {adapter.digest}.")
        loaded = Lora.load(adapter.directory, self._config)
        if not all(tensor.isfinite().all() for tensor in loaded.parameters()):
            raise EngineUnavailable("The adapter holds numbers that aren't finite.")
        return ServedAdapter(loaded.to(self._device, self._dtype))

    def _make_room(self, nbytes: int) -> None:
        unused = [digest for digest in self._loaded if digest not in self._pins]
        while unused and self.nbytes + nbytes > self._max_bytes:
            del self._loaded[unused.pop(0)]


def _block_diagonal(blocks: list[Tensor]) -> Tensor:
    return torch.block_diag(*blocks)  # type: ignore[no-untyped-call, no-any-return]
