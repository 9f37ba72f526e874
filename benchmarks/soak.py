"""Ten minutes of what an engine meets: python benchmarks/soak.py [--minutes 10] [--clients 24] [--adapters 40]

Clients of three accounts ask the base and many adapters (more than memory holds), read fast, slowly or not to the end,
and the engine's process is killed every minute. At the end every request has had a whole answer, an error that says
why, or was dropped by its client; the next request works, and the engine's memory is what it was.
"""

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from serving import make_adapter
from tunery.errors import TuneryError
from tunery.messages import Adapter, BaseModel, Done, Generate, Piece
from tunery.serving import commands
from tunery.serving.pool import EnginePool

NAME = "smollm2-135m-instruct"
LENGTHS = (8, 40, 400)
"""Tokens of an answer."""


class Soak:
    """Clients that share a pool, and what became of their requests."""

    def __init__(self, pool: EnginePool, adapters: list[Adapter], end: float) -> None:
        self._pool, self._adapters, self._end = pool, adapters, end
        self.outcomes: Counter[str] = Counter()
        self.longest = 0.0
        """Seconds from a request to its end."""
        self.cached_tokens = 0

    async def client(self, number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < self._end:
            began = time.monotonic()
            try:
                self.outcomes[await self._ask(chance, f"account-{number % 3}")] += 1
            except TuneryError as error:
                self.outcomes[f"{type(error).__name__}: {error.message[:60]}"] += 1
                await asyncio.sleep(min(error.retry_after, 2))
            self.longest = max(self.longest, time.monotonic() - began)

    async def killer(self) -> None:
        while time.monotonic() + 60 < self._end:
            await asyncio.sleep(60)
            if pid := self._pool.pid(NAME):
                os.kill(pid, signal.SIGKILL)
                self.outcomes["engine killed"] += 1

    async def _ask(self, chance: random.Random, owner: str) -> str:
        wanted = chance.choice(LENGTHS)
        asked = Generate(
            id=str(chance.random()),
            owner=owner,
            adapter=chance.choice([None, *self._adapters]),
            prompts=["You answer for a shop. " * chance.choice((1, 20, 100)) + str(chance.randrange(50))],
            max_tokens=wanted,
        )
        reading = chance.choice(("fast", "fast", "slow", "leaves"))
        answers = self._pool.generate(NAME, asked)
        pieces = 0
        try:
            async for answer in answers:
                pieces += isinstance(answer, Piece)
                if reading == "slow":
                    await asyncio.sleep(0.2)
                if reading == "leaves" and pieces > wanted // 3:
                    return "dropped by its client"
                if isinstance(answer, Done):
                    self.cached_tokens += answer.cached_tokens
                    return "whole answer"
        finally:
            await answers.aclose()
        return "ended without an end"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--adapters", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", type=Path, default=Path("~/.cache/tunery/models").expanduser())
    parser.add_argument("--peers", type=Path, default=Path(".peers"))
    options = parser.parse_args()
    base = BaseModel(name=NAME, directory=str(options.models / NAME), learning_rate=1e-3)
    made = [make_adapter(Path(base.directory), options.peers / "adapters" / str(n), n) for n in range(options.adapters)]
    with tempfile.TemporaryDirectory() as folder:
        command = commands.embedded(threads=options.threads, device="cpu")
        pool = EnginePool({NAME: base}.get, Path(folder), command, silence_seconds=60)
        await pool.start(NAME)
        soak = Soak(pool, [Adapter(**one) for one in made], time.monotonic() + 60 * options.minutes)
        await asyncio.gather(soak.killer(), *(soak.client(number) for number in range(options.clients)))
        peak = _resident_mib(pool.pid(NAME))
        after = [
            answer async for answer in pool.generate(NAME, Generate(id="1", owner="a", prompts=["x"], max_tokens=4))
        ]
        print(f"after {options.minutes} minutes, {options.clients} clients, {options.adapters} adapters:")
        for outcome, count in soak.outcomes.most_common():
            print(f"  {count:6} {outcome}")
        print(f"longest request {soak.longest:.1f} s, {soak.cached_tokens} prompt tokens cached, engine {peak:.0f} MiB")
        print("the next request works:", isinstance(after[-1], Done))
        await pool.close()
    sys.exit(0 if isinstance(after[-1], Done) and not soak.outcomes["ended without an end"] else 1)


def _resident_mib(pid: int | None) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


if __name__ == "__main__":
    asyncio.run(main())
