"""Memory and processes of this machine, out of Linux's /proc."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


def own_bytes() -> int:
    """Resident memory of this process."""
    return resident_bytes("self")


def resident_bytes(pid: int | str) -> int:
    """Raises OSError or KeyError if the process has ended."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmRSS:")


def total_bytes() -> int:
    return _kilobytes(Path("/proc/meminfo"), "MemTotal:")


def running(module: str, ancestor: int) -> list[int]:
    """Ids of the processes below `ancestor` that were started as `python -m module`."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, KeyError, ValueError):
            parents[int(folder.name)] = _field(folder / "status", "PPid:")
            if f"\0-m\0{module}\0".encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return [pid for pid in found if ancestor in _ancestors(pid, parents)]


def free_bytes(root: Path) -> int:
    """Of the machine, or of this process's control group if that leaves less. `root` holds proc and sys."""
    free = _kilobytes(root / "proc/meminfo", "MemAvailable:")
    groups = root / "sys/fs/cgroup"
    for limit, used, cache in (
        (groups / "memory.max", groups / "memory.current", "inactive_file"),
        (groups / "memory/memory.limit_in_bytes", groups / "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        if limit.exists() and used.exists() and (most := limit.read_text().strip()) != "max":
            droppable = _field(limit.parent / "memory.stat", cache)
            free = min(free, max(0, int(most) - int(used.read_text()) + droppable))
    return free


def _kilobytes(path: Path, name: str) -> int:
    return 1024 * _field(path, name)


def _field(path: Path, name: str) -> int:
    """The number after `name` in a file of lines; raises KeyError where there is none."""
    lines = (line.split() for line in path.read_text().splitlines())
    return int({line[0]: line[1] for line in lines if len(line) > 1}[name])


def _ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while pid in parents:
        pid = parents[pid]
        yield pid
