"""`python -m tests.conformance.vllm`: vLLM behind the engines' socket, beside our own engine; one line a check.

Not in CI: it takes minutes and an environment of 3.4 GB (`.peers/vllm`, shared with benchmarks/serving.py). On the CPU,
with vLLM's CPU build; on a GPU host, `--python` names an environment with vLLM and Tunery, `--device cuda`.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

import torch

from tests.serving.conftest import BUNDLED
from tests.serving.given import ask, base_in, run, shift_probe, write_adapter
from tunery.bases import BaseModel
from tunery.errors import EngineUnavailable, InvalidRequest
from tunery.messages import Adapter, Done, Generate, JsonForm, Piece, TokenLogprob
from tunery.models import probe
from tunery.models.decoder import Decoder
from tunery.models.loader import load
from tunery.models.lora import Lora
from tunery.models.tokenizer import Tokenizer
from tunery.serving import commands
from tunery.serving.compiled import linear_for
from tunery.serving.engine import Engine
from tunery.serving.pool import EnginePool
from tunery.weights import Weights

ROOT = Path(__file__).parent.parent.parent
PROMPTS = ("The capital of France is", "Once upon a time there was a", "def add(a, b):\n    ")
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "large": {"type": "boolean"}},
    "required": ["city", "large"],
    "additionalProperties": False,
}
Said = tuple[list[Piece], Done]


class Bench:
    """The same requests to both engines."""

    def __init__(self, pool: EnginePool, base: BaseModel, decoder: Decoder, adapters: list[Adapter]) -> None:
        self.pool = pool
        self.base = base
        self.ours = Engine(base, decoder, Tokenizer.load(base.directory))
        self.adapters = adapters

    async def ask(self, generate: Generate) -> Said:
        pieces = []
        async for answer in self.pool.generate(Weights(self.base.name), generate):
            if isinstance(answer, Piece):
                pieces.append(answer)
        assert isinstance(answer, Done)
        return pieces, answer

    async def same(self, *generates: Generate) -> list[Said]:
        """All at once there, one by one here."""
        said = await asyncio.gather(*(self.ask(generate) for generate in generates))
        for generate, (pieces, _) in zip(generates, said, strict=True):
            (expected,) = run(self.ours, generate)
            assert text(pieces) == text(expected.pieces), (text(pieces), text(expected.pieces))
            assert finish(pieces) == finish(expected.pieces)
            compare(scores(pieces), scores(expected.pieces))
        return list(said)


def text(pieces: list[Piece]) -> dict[int, str]:
    return {n: "".join(p.text for p in pieces if p.index == n) for n in sorted({p.index for p in pieces})}


def finish(pieces: list[Piece]) -> dict[int, str]:
    return {piece.index: piece.finish_reason for piece in pieces if piece.finish_reason}


def scores(pieces: list[Piece]) -> list[TokenLogprob]:
    return [one for piece in pieces for one in piece.logprobs]


def compare(got: list[TokenLogprob], expected: list[TokenLogprob]) -> None:
    assert [one.token_bytes for one in got] == [one.token_bytes for one in expected]
    for mine, theirs in zip(got, expected, strict=True):
        assert (mine.logprob is None) == (theirs.logprob is None)
        numbers = [(mine.logprob or 0, theirs.logprob or 0)]
        numbers += [(a[2], b[2]) for a, b in zip(mine.top, theirs.top, strict=True)]
        assert all(abs(a - b) < probe.TOLERANCE for a, b in numbers), numbers


async def greedy_alone(bench: Bench) -> None:
    """base and two adapters say what our engine says, one after another"""
    for adapter in (None, *bench.adapters):
        await bench.same(ask(PROMPTS[0], adapter=adapter, max_tokens=8))


async def greedy_mixed(bench: Bench) -> None:
    """and all at once"""
    adapters = (None, *bench.adapters)
    await bench.same(*(ask(prompt, adapter=adapter, max_tokens=8) for prompt in PROMPTS for adapter in adapters))


async def chat(bench: Bench) -> None:
    """a chat through our template"""
    await bench.same(ask(None, messages=[{"role": "user", "content": "Say hello."}], max_tokens=8))


async def logprobs(bench: Bench) -> None:
    """log probabilities, alternatives, echo, and a prompt that is only scored"""
    await bench.same(
        ask(PROMPTS[0], adapter=bench.adapters[0], logprobs=3, max_tokens=5),
        ask(PROMPTS[0], logprobs=2, echo=True, max_tokens=3),
        ask(PROMPTS[1], adapter=bench.adapters[1], logprobs=0, echo=True, max_tokens=0),
    )


async def shifted(bench: Bench) -> None:
    """penalties and logit_bias"""
    await bench.same(
        ask(PROMPTS[1], frequency_penalty=1.5, presence_penalty=0.5, max_tokens=12),
        ask(PROMPTS[1], logit_bias={198: 50.0}, max_tokens=4),
    )


async def stop(bench: Bench) -> None:
    """stop strings across tokens"""
    ((pieces, _),) = await bench.same(ask(PROMPTS[0], max_tokens=12))
    whole = text(pieces)[0]
    await bench.same(ask(PROMPTS[0], max_tokens=12, stop=[whole[7:11]]), ask(PROMPTS[0], max_tokens=12, stop=["@@"]))


async def form(bench: Bench) -> None:
    """an answer held to a schema"""
    asked = ask("A city as JSON: ", json_form=JsonForm(schema=SCHEMA, strict=True), max_tokens=40)
    ((pieces, _),) = await bench.same(asked)
    assert json.loads(text(pieces)[0]).keys() == {"city", "large"}


async def drawn(bench: Bench) -> None:
    """the same seed draws the same; n choices differ; best_of returns n"""
    generate = ask(PROMPTS[1], temperature=1.0, top_p=0.9, seed=7, n=2, best_of=3, max_tokens=6)
    (first, done), (second, _) = [await bench.ask(generate) for _ in range(2)]
    assert text(first) == text(second)
    assert len(set(text(first).values())) == 2
    assert done.completion_tokens == 18


async def cancelled(bench: Bench) -> None:
    """a client that goes away; the next one is served"""
    answers = bench.pool.generate(
        Weights(bench.base.name), ask(PROMPTS[1], max_tokens=None, logit_bias={0: -100, 2: -100})
    )
    async for answer in answers:
        if isinstance(answer, Piece):
            break
    await answers.aclose()
    await bench.same(ask(PROMPTS[0], max_tokens=3))


async def prefixes(bench: Bench) -> None:
    """a prompt is known again to its account and adapter, and to no other"""
    long = [100 + n % 50 for n in range(300)]
    known = []
    for owner, adapter in (("a", None), ("a", None), ("b", None), ("a", bench.adapters[0])):
        _, done = await bench.ask(ask(long, owner=owner, adapter=adapter, max_tokens=1))
        known.append(done.cached_tokens)
    assert known[0] == known[2] == known[3] == 0 < known[1], known


async def mounted(bench: Bench) -> None:
    """an adapter is mounted if it answers its probe as trained, and not if it doesn't"""
    for adapter in bench.adapters:
        await bench.pool.mount(Weights(bench.base.name), adapter)
    shift_probe(bench.adapters[1], -1.0)
    await refused(EngineUnavailable, bench.pool.mount(Weights(bench.base.name), bench.adapters[1]))


async def wrong(bench: Bench) -> None:
    """another digest, no folder, no such token, a context that overflows: refused, and nothing else suffers"""
    directory = bench.adapters[0].directory
    for adapter in (Adapter(digest="0" * 64, directory=directory), Adapter(digest="1", directory=directory + "/no")):
        await refused(EngineUnavailable, bench.ask(ask(adapter=adapter)))
    for generate in (ask([10**6]), ask(max_tokens=10**6)):
        await refused(InvalidRequest, bench.ask(generate))
    await bench.same(ask(PROMPTS[0], max_tokens=2))


async def refused(kind: type[Exception], call: Awaitable[object]) -> None:
    try:
        await call
    except kind:
        return
    raise AssertionError(f"not refused with {kind.__name__}")


CHECKS: list[Callable[[Bench], Awaitable[None]]] = [
    greedy_alone, greedy_mixed, chat, logprobs, shifted, stop, form, drawn, cancelled, prefixes, mounted, wrong,
]  # fmt: skip


async def check(pool: EnginePool, bench: Bench, only: str) -> int:
    failures = 0
    for one in CHECKS:
        if only not in one.__name__:
            continue
        try:
            await asyncio.wait_for(one(bench), 200)
        except Exception:
            failures += 1
            print(f"FAILED {one.__name__}: {one.__doc__}: {traceback.format_exc(limit=-3)}", flush=True)
        else:
            print(f"ok {one.__name__}: {one.__doc__}", flush=True)
    await pool.close()
    return failures


def environment() -> str:
    """The interpreter of `.peers/vllm`, made if need be; Tunery is in it, without what only the service needs."""
    python = ROOT / ".peers" / "vllm" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet"]
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
        subprocess.run([*install, "torch==2.13.0"], check=True)
        subprocess.run([*install, "--no-deps", "-r", str(ROOT / "benchmarks" / "contenders" / "vllm.txt")], check=True)
    if subprocess.run([str(python), "-c", "import tunery"], check=False, capture_output=True).returncode:
        subprocess.run([*install, "--no-deps", "llguidance==1.9.1", "--editable", str(ROOT)], check=True)
    return str(python)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="instead of .peers/vllm")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="part of a check's name")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = base_in(BUNDLED, name="smollm2", context_length=1024)
    decoder = load(base.directory, linear=linear_for("cpu"))
    assert isinstance(decoder, Decoder)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adapters = [write_adapter(folder / f"{n}", decoder.config, seed=n, rank=8, strength=0.02) for n in (1, 2)]
        for adapter in adapters:
            tokens = Tokenizer.load(base.directory).encode("What can you do for me?")
            probe.measure(decoder, Lora.load(adapter.directory, decoder.config), tokens).write(Path(adapter.directory))
        given = {"kv_cache_memory_bytes": 2**29} if options.device == "cpu" else {}
        command = commands.vllm(
            options.python or environment(), threads=options.threads, device=options.device, options=given
        )
        pool = EnginePool({base.name: base}.get, folder / "engines", command, silence_seconds=120)
        failures = asyncio.run(check(pool, Bench(pool, base, decoder, adapters), options.only))
        if failures:
            print((folder / "engines" / "engine-0.log").read_text()[-6000:], file=sys.stderr)
    print(f"{failures} failed" if failures else "all checks passed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
