"""Ten minutes of what a service meets: python benchmarks/soak.py [--minutes 10] [--clients 24] [--home FLEET/many]

Needs a home of benchmarks/fleet.py (make, deploy). Clients stream from its deployments over HTTP, half of them from a
few and half from all, more than memory holds; they read fast, slowly or not to the end; one deployment is dropped and
made again all the time. In the first half the engine's process is killed (-9) every half minute. Afterwards every
request has had a whole answer, an error that says why, or was dropped by its client; the next one works; and blocks,
memory and open files are what they were.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from live import Service, engine_usage, free_port, processes, send, serving

LENGTHS = (8, 40, 400)
"""Tokens of an answer."""
BEGINNINGS = (1, 20, 100)
"""Sentences that prompts have in common."""
FAVOURITES = 8
KILL_SECONDS = 30.0
PATH = "/openai/deployments/{}/completions?api-version=2024-10-21"


class Soak:
    def __init__(self, service: Service, names: list[str], seconds: float) -> None:
        self._service, self._names = service, names[:-1]
        self._dropped = names[-1]
        self._half, self._end = time.monotonic() + seconds / 2, time.monotonic() + seconds
        self.outcomes: Counter[str] = Counter()
        self.longest = 0.0
        """Seconds from a request to its end."""
        self.cached_tokens = self.prompt_tokens = 0

    async def client(self, number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < self._end:
            began = time.monotonic()
            self.outcomes[outcome := await self._ask(chance)] += 1
            self.longest = max(self.longest, time.monotonic() - began)
            if not outcome.startswith(("whole", "dropped")):
                await asyncio.sleep(1)

    async def killer(self) -> None:
        await asyncio.sleep(KILL_SECONDS)
        while time.monotonic() < self._half:
            for pid in self._service.pids("tunery.serving"):
                os.kill(pid, signal.SIGKILL)
                self.outcomes["engine killed"] += 1
            await asyncio.sleep(KILL_SECONDS)

    async def remaker(self) -> None:
        """Drops a deployment and makes it again, which loads its adapter and asks its probe."""
        path = f"/deployments/{self._dropped}"
        model = (await asyncio.to_thread(self._service.arm, "GET", path))["properties"]["model"]
        while time.monotonic() < self._end:
            await asyncio.to_thread(self._service.arm, "DELETE", path)
            body = {"sku": {"name": "Standard"}, "properties": {"model": model}}
            await asyncio.to_thread(self._service.arm, "PUT", path, body)
            state = "Creating"
            while state == "Creating":
                await asyncio.sleep(0.5)
                state = (await asyncio.to_thread(self._service.arm, "GET", path))["properties"]["provisioningState"]
            self.outcomes[f"a deployment dropped and made again: {state}"] += 1

    async def _ask(self, chance: random.Random) -> str:
        wanted = chance.choice(LENGTHS)
        prompt = "You answer for a shop. " * chance.choice(BEGINNINGS) + f"Order {chance.randrange(50)}:"
        body = {"prompt": prompt, "max_tokens": wanted, "stream": True, "stream_options": {"include_usage": True}}
        name = chance.choice(self._names[:FAVOURITES] if chance.random() < 0.5 else self._names)
        reading = chance.choice(("fast", "fast", "slow", "leaves"))
        reader, writer = await send(self._service.port, PATH.format(name), body, key=self._service.key)
        try:
            status = (await reader.readline()).split()
            while (await reader.readline()).strip():
                pass
            if status[1:2] != [b"200"]:
                return _error(b" ".join(status[1:2]).decode(), await reader.read())
            return await self._read(
                reader, 0.2 if reading == "slow" else 0.0, wanted // 3 if reading == "leaves" else None
            )
        except OSError as error:
            return f"broken connection: {error}"
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, pause: float, enough: int | None) -> str:
        pieces = 0
        async for line in reader:
            if line.startswith(b"data: [DONE]"):
                return "whole answer"
            if line.startswith(b"data: "):
                event: dict[str, Any] = json.loads(line[6:])
                if "error" in event:
                    return _error("in its stream", line[6:])
                pieces += 1
                if usage := event.get("usage"):
                    self.prompt_tokens += usage["prompt_tokens"]
                    self.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"]
                if enough is not None and pieces > enough:
                    return "dropped by its client"
                await asyncio.sleep(pause)
        return "ended without an end"

    async def settled(self) -> None:
        """Halfway, when nothing is killed any more."""
        await asyncio.sleep(max(0.0, self._half + KILL_SECONDS - time.monotonic()))


def _error(where: str, body: bytes) -> str:
    with suppress(ValueError, KeyError):
        return f"error {where}: {json.loads(body)['error']['message'][:70]}"
    return f"error {where} without a message: {body[:70]!r}"


async def soak(service: Service, names: list[str], options: argparse.Namespace) -> Soak:
    running = Soak(service, names, 60 * options.minutes)

    async def halfway() -> None:
        await running.settled()
        print("halfway, nothing is killed any more:", processes(service), flush=True)

    clients = (running.client(number) for number in range(options.clients))
    await asyncio.gather(running.killer(), running.remaker(), halfway(), *clients)
    return running


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--home", type=Path, default=Path(".peers/fleet/many"))
    options = parser.parse_args()
    service = Service(options.home, port=free_port(), threads=options.threads)
    with serving(service):
        names = [one["name"] for one in service.arm("GET", "/deployments")["value"]]
        first = asyncio.run(service.ask(names[0], {"prompt": "x", "max_tokens": 1, "stream": True}))
        print(f"{len(names)} deployments, first answer {first.seconds:.1f} s:", processes(service), flush=True)
        found = asyncio.run(soak(service, names, options))
        print(f"after {options.minutes} minutes with {options.clients} clients:")
        for outcome, count in found.outcomes.most_common():
            print(f"  {count:6} {outcome}")
        print(f"longest request {found.longest:.1f} s")
        print(f"{found.cached_tokens} of {found.prompt_tokens} prompt tokens cached")
        time.sleep(2)
        after = asyncio.run(service.ask(names[1], {"prompt": "x", "max_tokens": 4, "stream": True}))
        usage = asyncio.run(engine_usage(service))
        print("the next request works:", after.complete)
        print("at the end:", processes(service))
        print("the engine's books:", usage)
    clean = usage is not None and (usage.held_blocks, usage.running, usage.waiting, usage.pinned_adapters) == (
        0,
        0,
        0,
        0,
    )
    whole = not any("without" in outcome or "broken" in outcome for outcome in found.outcomes)
    sys.exit(0 if after.complete and clean and whole else 1)


if __name__ == "__main__":
    main()
