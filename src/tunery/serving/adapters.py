"""Adapters in memory, found by digest, and their part in a batch. Knows no request and no schedule.

Adapters that running sequences use stay; of the others the least recently used make room when the limit is reached.
Files are read on threads of their own, so that others decode meanwhile.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import chain
from types import ModuleType
from typing import Generic, Protocol, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunery.errors import EngineUnavailable
from tunery.messages import Adapter
from tunery.models import lora
from tunery.models.decoder import LowRank, ModelConfig
from tunery.models.layout import Layout
from tunery.models.lora import Lora
from tunery.serving.compiled import kernels_for

MOST_LOADING = 2
"""Adapters read ahead; each is held beside those in memory until it is wanted."""


class DenseAdapter:
    """An adapter as matrices for each group of linear layers: what it adds to a member is x @ down @ up."""

    def __init__(self, adapter: Lora) -> None:
        self.rank, matrices = adapter.rank, _matrices(adapter)
        self.down = {group: [down.contiguous() for down, _ in blocks] for group, blocks in matrices.items()}
        """[in, members * rank]"""
        self.up = {group: [[up.contiguous() for up in ups] for _, ups in blocks] for group, blocks in matrices.items()}
        """[rank, out] of each member, scale included"""

    @property
    def nbytes(self) -> int:
        down = sum(tensor.nbytes for stack in self.down.values() for tensor in stack)
        return down + sum(tensor.nbytes for stack in self.up.values() for members in stack for tensor in members)


class CompiledAdapter:
    """The same for compiled loops, which read it in the order in which it lies: strips.in_strips.

    In float16, as our trainer writes adapters, where that keeps every bit: half the memory, and half of what a step of
    many adapters reads.
    """

    def __init__(self, adapter: Lora, kernels: ModuleType) -> None:
        parts = [
            part
            for blocks in _matrices(adapter).values()
            for down, ups in blocks
            for part in (kernels.in_strips([down]), kernels.in_strips(ups))
        ]
        sizes, strips = [sum(map(len, part)) for part in parts], list(chain.from_iterable(parts))
        halves = [strip.half() for strip in strips]
        exact = all(torch.equal(half.float(), strip) for half, strip in zip(halves, strips, strict=True))
        self._kept = torch.cat(halves if exact else strips)
        starts = self._kept.data_ptr() + self._kept.element_size() * np.cumsum([0, *sizes[:-1]])
        self.matrices = np.empty((adapter.layout.num_blocks, len(adapter.layout.groups), 4), np.int64)
        """[blocks, groups, 4]: where down and the members' ups lie, rank and format; see kernels.add_low_rank."""
        self.matrices[..., :2] = starts.reshape(len(adapter.layout.groups), -1, 2).swapaxes(0, 1)
        self.matrices[..., 2:] = adapter.rank, kernels.FORMATS[self._kept.dtype]

    @property
    def nbytes(self) -> int:
        return self._kept.nbytes


def _matrices(adapter: Lora) -> dict[str, list[tuple[Tensor, list[Tensor]]]]:
    """By group, for each block: down [in, members * rank] and its members' ups [rank, out], scale included; strided."""
    return {
        group: [
            (adapter.a[group][i].T, [adapter.b[t][i].T * adapter.scale for t in members])
            for i in range(adapter.layout.num_blocks)
        ]
        for group, members in adapter.layout.groups.items()
    }


ServedAdapter = DenseAdapter | CompiledAdapter
A = TypeVar("A", bound=ServedAdapter)
Span = tuple[A, int, int]
"""An adapter, its first row and the row after its last; rows in no span are the base's."""


class DenseLora(LowRank):
    """The `LowRank` of one step: each row gets its own adapter's term, in products of matrices."""

    def __init__(self, spans: Sequence[Span[DenseAdapter]]) -> None:
        self._spans = spans

    def add(self, block: int, group: str, x: Tensor, y: Tensor) -> Tensor:
        """In place: y is the base's fresh output."""
        for adapter, start, end in self._spans:
            low, ups = x[start:end] @ adapter.down[group][block], adapter.up[group][block]
            parts = torch.split(y[start:end], [up.shape[1] for up in ups], dim=-1)
            for part, narrow, up in zip(parts, torch.split(low, adapter.rank, dim=-1), ups, strict=True):
                part.addmm_(narrow, up)
        return y


class CompiledLora(LowRank):
    """The same in one pass of a compiled loop."""

    def __init__(self, layout: Layout, spans: Sequence[Span[CompiledAdapter]], kernels: ModuleType) -> None:
        self._kernels = kernels
        self._spans = spans  # whose memory `matrices` points into
        self.rows = np.full(max((end for _, _, end in spans), default=0), -1)
        """[T]: each row's place in `matrices`, -1 where it has no adapter; the base's last rows are left out."""
        self.matrices = np.stack([adapter.matrices for adapter, _, _ in spans], axis=2)
        """[blocks, groups, A, 4]"""
        for place, (_, start, end) in enumerate(spans):
            self.rows[start:end] = place
        self.members = members_of(layout)
        self._groups = {group: place for place, group in enumerate(layout.groups)}

    def add(self, block: int, group: str, x: Tensor, y: Tensor) -> Tensor:
        """In place: y is the base's fresh output."""
        place = self._groups[group]
        self._kernels.add_low_rank(x, y, self.rows[: len(x)], self.matrices[block, place], self.members[place])
        return y


BatchLora = DenseLora | CompiledLora


def batch_lora(layout: Layout, spans: Sequence[Span[ServedAdapter]], kernels: ModuleType | None) -> BatchLora:
    """Of adapters that were `served` for the same device and dtype as the `kernels` are for."""
    if kernels:
        return CompiledLora(layout, cast(Sequence[Span[CompiledAdapter]], spans), kernels)
    return DenseLora(cast(Sequence[Span[DenseAdapter]], spans))


def members_of(layout: Layout) -> NDArray[np.int64]:
    """[groups, M]: numbers of outputs of each group's members, 0 where it has fewer than the largest."""
    sizes = [[layout.features[member][1] for member in members] for members in layout.groups.values()]
    most = max(map(len, sizes))
    return np.array([outputs + [0] * (most - len(outputs)) for outputs in sizes])


class Kept(Protocol):
    """What an engine keeps of an adapter."""

    @property
    def nbytes(self) -> int: ...


K = TypeVar("K", bound=Kept)


class AdapterStore(Generic[K]):
    """Adapters by digest, `max_bytes` of them at most and, while all of those are in use, one more.

    An adapter is loaded when the first request that needs it is about to run, and pinned while requests run.
    """

    def __init__(
        self, load: Callable[[Adapter], K], *, max_bytes: int, dropped: Callable[[K], None] = lambda _: None
    ) -> None:
        """`load` runs on threads of its own; see `checked`. `dropped` gets what makes room, on the caller's thread."""
        self._load = load
        self._max_bytes = max_bytes
        self._dropped = dropped
        self._loaded: OrderedDict[str, K] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._pins: Counter[str] = Counter()
        self._loader = ThreadPoolExecutor(MOST_LOADING, "adapters")
        self._loading: dict[str, Future[K]] = {}

    @property
    def digests(self) -> list[str]:
        """Of the adapters in memory, the one to go first in front."""
        return list(self._loaded)

    @property
    def nbytes(self) -> int:
        return sum(self._sizes[digest] for digest in self._loaded)

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

    def get(self, adapter: Adapter) -> K:
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

    def _take(self, digest: str, loaded: K) -> None:
        self._make_room(loaded.nbytes)
        self._loaded[digest] = loaded
        self._sizes[digest] = loaded.nbytes

    def _make_room(self, nbytes: int) -> None:
        unused = [digest for digest in self._loaded if digest not in self._pins]
        while unused and self.nbytes + nbytes > self._max_bytes:
            self._dropped(self._loaded.pop(unused.pop(0)))


def served(adapter: Adapter, *, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> ServedAdapter:
    """See `checked`."""
    loaded, kernels = checked(adapter, config).to(device, dtype), kernels_for(device, dtype)
    return CompiledAdapter(loaded, kernels) if kernels else DenseAdapter(loaded)


def checked(adapter: Adapter, config: ModelConfig) -> Lora:
    """From its folder. Raises InvalidRequest or EngineUnavailable if it isn't what it should be."""
    try:
        digest = lora.digest(adapter.directory)
    except OSError as error:
        raise EngineUnavailable(f"The adapter can't be read: {error.strerror}.") from error
    if digest != adapter.digest:
        raise EngineUnavailable(f"The adapter on disk has the digest {digest}, not {adapter.digest}.")
    loaded = Lora.load(adapter.directory, config)
    if not all(tensor.sum().isfinite() for tensor in loaded.parameters()):  # any number that isn't makes the sum so
        raise EngineUnavailable("The adapter holds numbers that aren't finite.")
    return loaded
