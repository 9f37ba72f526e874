from pathlib import Path

import pytest

from tests.training.orders import order_in
from tunery.host import free_bytes, own_bytes
from tunery.training.memory import Trees, available_bytes, peak_bytes
from tunery.training.plan import sizes_of


def machine(root: Path, *, available_kib: int) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: 999 kB\nMemAvailable:  {available_kib} kB\nHugePages_Total: 0\n")
    return root


def group(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_without_a_control_group_the_machine_s_free_memory_counts(tmp_path: Path) -> None:
    assert free_bytes(machine(tmp_path, available_kib=4096)) == 4096 * 1024


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory.max": "max\n", "memory.current": "5", "memory.stat": "inactive_file 0\n"}, 4096 * 1024),
        ({"memory.max": "9000\n", "memory.current": "5000\n", "memory.stat": "anon 1\ninactive_file 1000\n"}, 5000),
        ({"memory.max": "9000\n", "memory.current": "9500\n", "memory.stat": "inactive_file 0\n"}, 0),
        (
            {
                "memory/memory.limit_in_bytes": "8000",
                "memory/memory.usage_in_bytes": "6000",
                "memory/memory.stat": "total_inactive_file 500\n",
            },
            2500,
        ),
        (
            {
                "memory/memory.limit_in_bytes": str(1 << 62),
                "memory/memory.usage_in_bytes": "6000",
                "memory/memory.stat": "total_inactive_file 500\n",
            },
            4096 * 1024,
        ),
    ],
)
def test_a_control_group_s_limit_counts_where_it_leaves_less(tmp_path: Path, files: dict[str, str], free: int) -> None:
    group(machine(tmp_path, available_kib=4096), files)
    assert free_bytes(tmp_path) == free


def test_what_the_process_holds_already_is_its_own_to_use() -> None:
    assert own_bytes() > 50 * 1024**2
    assert available_bytes("cpu") > own_bytes()


def test_more_nodes_need_more_memory_and_recomputing_needs_less(tmp_path: Path, tiny: Path) -> None:
    sizes = sizes_of(order_in(tmp_path, tiny))

    def peak(trees: Trees) -> int:
        return peak_bytes(sizes, trees, data_bytes=0, device="cpu")

    assert peak(Trees()) < peak(Trees(kept=100)) < peak(Trees(kept=1000))
    assert peak(Trees(kept=100)) < peak(Trees(kept=100, loss_rows=50)) < peak(Trees(kept=100, loss_rows=200))
    assert peak(Trees(kept=100, loss_rows=300)) == peak(Trees(kept=100, loss_rows=3000))


@pytest.mark.model
def test_recomputing_a_long_example_of_the_bundled_base_needs_far_less(tmp_path: Path, bundled: Path) -> None:
    sizes = sizes_of(order_in(tmp_path, bundled))
    nothing, kept, recomputed = (
        peak_bytes(sizes, trees, data_bytes=0, device="cpu")
        for trees in (Trees(), Trees(kept=3000), Trees(recomputed=3000))
    )
    assert recomputed - nothing < (kept - nothing) / 2
