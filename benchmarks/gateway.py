"""What the HTTP edge costs, over a generator that answers at once: python benchmarks/gateway.py [--requests 500]

The whole way of a request to a deployment that lies in a database: key, right, row, body, answer. The generator says as
many tokens as are asked for; the engine's socket isn't in it. Time by the clock, one request after another, and the
processor time of the serving process, which other work on the machine doesn't lengthen as much.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import uvicorn

from live import ask, free_port, quantile
from tunery import app, wiring
from tunery.catalog import BUNDLED
from tunery.deploying import Wanted
from tunery.messages import Adapter, Done, Generate, Piece, Started
from tunery.settings import Settings

TOKENS = 500
PATH = "/openai/deployments/base/completions?api-version=2024-10-21"


class Talker:
    """A generator, and a mounter, whose model is infinitely fast."""

    async def keep(self, _wanted: object) -> None:
        pass

    async def mount(self, _base: str, _adapter: Adapter) -> None:
        pass

    async def generate(self, _base: str, request: Generate, /) -> AsyncGenerator[Started | Piece | Done, None]:
        tokens = request.max_tokens or 1
        yield Started(id=request.id, prompt_tokens=3)
        for number in range(tokens):
            # As an engine's pieces come: each from the loop anew.
            await asyncio.sleep(0)
            yield Piece(id=request.id, index=0, text=" word", finish_reason="length" if number == tokens - 1 else None)
        yield Done(id=request.id, prompt_tokens=3, completion_tokens=tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder) / "home", port=free_port(), tls_port=0)
        rooms = wiring.services(settings)
        account = rooms.accounts.first()
        key = rooms.accounts.keys(account)[0]
        rooms.deployer.put(account, "base", Wanted(model=BUNDLED), by="benchmark")
        rooms.close()
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(settings,), daemon=True)
        process.start()
        try:
            asyncio.run(measure(settings.port, key, process.pid or 0, options.requests))
        finally:
            process.terminate()


def serve(settings: Settings) -> None:
    application = app.web(wiring.services(settings), Talker())  # type: ignore[arg-type]
    config = {"host": "127.0.0.1", "port": settings.port, "lifespan": "off", "log_level": "warning"}

    async def run() -> None:
        async with application.router.lifespan_context(application):
            await uvicorn.Server(uvicorn.Config(app.entrance(application), **config)).serve()  # type: ignore[arg-type]

    asyncio.run(run())


async def measure(port: int, key: str, pid: int, count: int) -> None:
    while True:
        try:
            if (await ask(port, PATH, {"prompt": "x", "max_tokens": 1}, key=key)).status == 200:
                break
        except OSError:
            pass
        await asyncio.sleep(0.1)
    await requests(port, key, pid, count // 5)
    times, processor = await requests(port, key, pid, count)
    print(
        f"{count} requests on one connection, an answer of a token each: p50 {1000 * quantile(times, 0.5):.2f}, "
        f"p99 {1000 * quantile(times, 0.99):.2f} ms, {1000 * processor:.2f} ms of processor time"
    )
    for tokens in (1, TOKENS):
        before, times = processor_seconds(pid), []
        for _ in range(20):
            times.append((await ask(port, PATH, _body(tokens, stream=True), key=key)).seconds)
        spent = (processor_seconds(pid) - before) / 20
        told = f"p50 {1000 * quantile(times, 0.5):.2f} ms, {1000 * spent:.2f} of processor time"
        print(f"a stream of {tokens} tokens: {told}")


async def requests(port: int, key: str, pid: int, count: int) -> tuple[list[float], float]:
    """Seconds of each, and processor time of the server a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(_body(1, stream=False)).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\napi-key: {key}\r\ncontent-type: application/json\r\n"
    request = f"{head}content-length: {len(data)}\r\n\r\n".encode() + data
    before, times = processor_seconds(pid), []
    for _ in range(count):
        began = time.perf_counter()
        writer.write(request)
        length = 0
        while line := (await reader.readline()).strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        await reader.readexactly(length)
        times.append(time.perf_counter() - began)
    writer.close()
    return times, (processor_seconds(pid) - before) / count


def processor_seconds(pid: int) -> float:
    """User and system (proc(5): fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _body(tokens: int, *, stream: bool) -> dict[str, Any]:
    return {"prompt": "Say something.", "max_tokens": tokens, "stream": stream}


if __name__ == "__main__":
    main()
