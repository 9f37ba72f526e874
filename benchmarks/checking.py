"""How fast training files are checked, beside `json.loads` of every line in the same process, and the memory it takes.

    python benchmarks/checking.py [--megabytes 200] [--json OUT]

Speeds are medians of five runs of each, taken in turns. Memory is the peak of a process of its own.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tunery import examples

RUNS = 5
WORDS = ("play", "book", "table", "song", "weather", "rate", "stars", "near", "home", "tomorrow", "please", "find")
SYSTEM = (
    'You turn a request to a voice assistant into JSON with the keys "intent" and "slots". Slots hold the words of '
    "the request as they stand. Answer with the JSON object alone."
)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find",
            "description": "Finds things.",
            "parameters": {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]},
        },
    }
]
PEAK_OF_A_CHECK = r"""
import re, sys
from pathlib import Path
from tunery import examples
def peak():
    return re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]
before = peak()
examples.check(sys.argv[1], on_finding=lambda finding: None)
print(before, peak())
"""


def words(source: random.Random, count: int) -> str:
    return " ".join(source.choices(WORDS, k=count))


def short(source: random.Random) -> dict[str, Any]:
    """System, user and assistant: about 450 bytes."""
    slots = {"object": words(source, 2), "place": words(source, 3), "number": source.randrange(10**6)}
    answer = json.dumps({"intent": "Find", "slots": slots})
    roles = (("system", SYSTEM), ("user", words(source, 10)), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in roles]}


def long(source: random.Random) -> dict[str, Any]:
    """Twenty turns and more: about 5 kB."""
    turns = [(role, words(source, 45)) for _ in range(10) for role in ("user", "assistant")]
    return {"messages": [{"role": role, "content": content} for role, content in [("system", SYSTEM), *turns]]}


def weighted(source: random.Random) -> dict[str, Any]:
    """Earlier answers have weight 0: about 1 kB."""
    example = long(source)
    messages = example["messages"][:9]
    for place, message in enumerate(messages):
        message["content"] = words(source, 15)
        if message["role"] == "assistant":
            message["weight"] = int(place == 8)
    return {"messages": messages}


def with_tools(source: random.Random) -> dict[str, Any]:
    """A call, its result and the answer: about 1 kB."""
    call = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": json.dumps({"what": "x"})}}
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": words(source, 10)},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": words(source, 20)},
        {"role": "assistant", "content": words(source, 20)},
    ]
    return {"messages": messages, "tools": TOOLS}


def faulty(source: random.Random) -> dict[str, Any]:
    """Short ones, one in a hundred with a wrong role."""
    example = short(source)
    if source.random() < 0.01:
        example["messages"][1]["role"] = "usher"
    return example


KINDS: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "short": short,
    "long": long,
    "weighted": weighted,
    "with tools": with_tools,
    "1 % faulty": faulty,
}


def lines(kind: str, size: int) -> Iterator[bytes]:
    source = random.Random(kind)
    written = 0
    while written < size:
        line = json.dumps(KINDS[kind](source)).encode() + b"\n"
        written += len(line)
        yield line


def write(path: Path, kind: str, megabytes: float) -> Path:
    with path.open("wb") as stream:
        stream.writelines(lines(kind, int(megabytes * 1e6)))
    return path


def check(path: Path) -> None:
    examples.check(path, on_finding=lambda _: None)


def load(path: Path) -> None:
    with path.open("rb") as stream:
        for line in stream:
            json.loads(line)


def seconds(work: Callable[[Path], None], path: Path) -> float:
    start = time.perf_counter()
    work(path)
    return time.perf_counter() - start


def speeds(path: Path) -> dict[str, float]:
    """MB/s of both, and how many times faster the check is."""
    megabytes = path.stat().st_size / 1e6
    pairs = [(seconds(check, path), seconds(load, path)) for _ in range(RUNS)]
    checks, loads = ([pair[side] for pair in pairs] for side in (0, 1))
    return {
        "check_mb_per_s": megabytes / statistics.median(checks),
        "json_loads_mb_per_s": megabytes / statistics.median(loads),
        "ratio": statistics.median(load / check for check, load in pairs),
    }


def peak_megabytes(path: Path) -> dict[str, float]:
    """Resident memory of a process before and at the worst moment of its check."""
    command = [sys.executable, "-c", PEAK_OF_A_CHECK, str(path)]
    before, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return {"before": int(before) / 1024, "peak": int(peak) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=200, help="size of the short file; others have a quarter")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    options = parser.parse_args()
    report: dict[str, Any] = {"megabytes": options.megabytes, "speed": {}, "memory": {}}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            size = options.megabytes if kind == "short" else options.megabytes / 4
            path = write(Path(folder) / "file.jsonl", kind, size)
            report["speed"][kind] = found = speeds(path)
            print(f"{kind:12s}" + "".join(f" {name} {value:7.2f}" for name, value in found.items()))
        for size in (options.megabytes / 4, options.megabytes):
            path = write(Path(folder) / "file.jsonl", "short", size)
            report["memory"][f"{size:g}"] = memory = peak_megabytes(path)
            print(f"{size:6.0f} MB file: peak {memory['peak']:.0f} MiB, {memory['before']:.0f} MiB before the check")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
