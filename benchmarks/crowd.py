"""Who waits for whom: python benchmarks/crowd.py [--only short,slow,gone,training] [--training FILE.jsonl]

A fresh service with the base deployed in two accounts. `short`: short requests alone, then while eight long ones of the
same account always run, then of the other account. `slow`: 200 open streams that are read slowly, and short requests
beside them. `gone`: clients that vanish in the middle of their streams; how soon the engine holds nothing for them.
`training`: a short chat each second alone and while a job trains on a file.
"""

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai

from live import Answer, Service, ask, engine_usage, free_port, processes, quantile, send, serving
from tunery import wiring
from tunery.accounts import Wanted as WantedAccount
from tunery.catalog import BUNDLED
from tunery.deploying import Wanted
from tunery.settings import Settings

PATH = "/openai/deployments/base/completions?api-version=2024-10-21"
CHAT = "/openai/deployments/base/chat/completions?api-version=2024-10-21"
OTHER = "other"
LONG = "The light was promised for last week and still hasn't come. " * 120
"""About 1,500 tokens."""
NEVER_ENDS = {"0": -100, "2": -100}
"""A logit_bias for the ends of texts."""
STREAMS = 200
SECONDS = 40
"""Of each measurement of short requests."""


class Crowd:
    def __init__(self, service: Service, keys: dict[str, str]) -> None:
        self.service, self._keys = service, keys

    async def ask(self, prompt: str, tokens: int, *, account: str = "", pause: float = 0.0) -> Answer:
        path = f"/accounts/{account}{PATH}" if account else PATH
        return await ask(self.service.port, path, _body(prompt, tokens), key=self._keys[account], pause=pause)

    async def shorts(self, name: str) -> None:
        """A short request of the first account each second; the last ones may take longer than the measurement."""
        began = time.monotonic()
        going: list[asyncio.Task[Answer]] = []
        while time.monotonic() < began + SECONDS:
            going.append(asyncio.create_task(self.ask(f"Order {len(going)}: the", 8)))
            await asyncio.sleep(1)
        tell(name, await asyncio.gather(*going))

    async def chats(self, name: str, seconds: float) -> None:
        began = time.monotonic()
        going: list[asyncio.Task[Answer]] = []
        while time.monotonic() < began + seconds:
            body = {"messages": [{"role": "user", "content": f"Say something, {len(going)}"}], "max_tokens": 16}
            chat = ask(self.service.port, CHAT, {**body, "stream": True}, key=self._keys[""])
            going.append(asyncio.create_task(chat))
            await asyncio.sleep(1)
        tell(name, await asyncio.gather(*going))

    async def long(self, number: int, account: str) -> None:
        """Without end, until it is cancelled."""
        while True:
            number += 8
            await self.ask(f"{number} {LONG}", 200, account=account)

    async def vanish(self, number: int) -> None:
        """Goes away with a reset once the third piece is there."""
        reader, writer = await send(self.service.port, PATH, _body(f"Order {number}: a", 2000), key=self._keys[""])
        with suppress(OSError):
            for _ in range(20):
                if not await reader.readline():
                    break
        writer.transport.abort()


def tell(name: str, answers: list[Answer]) -> None:
    firsts = [answer.first_ms for answer in answers if answer.arrivals]
    whole = [1000 * answer.seconds for answer in answers if answer.complete]
    statuses = dict(Counter(answer.status if answer.complete else "incomplete" for answer in answers))
    times = (
        f"{what} p50 {quantile(found, 0.5):.0f} p99 {quantile(found, 0.99):.0f} ms"
        for what, found in (("first token", firsts), ("whole answer", whole))
    )
    print(f"{name}: {len(answers)} requests {statuses}, {', '.join(times)}", flush=True)


async def short(crowd: Crowd) -> None:
    await crowd.shorts("short requests alone")
    for name, account in (("the same account", ""), ("another account", OTHER)):
        background = [asyncio.create_task(crowd.long(number, account)) for number in range(8)]
        await asyncio.sleep(10)
        await crowd.shorts(f"short requests while eight long ones of {name} run")
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await _quiet(crowd)


async def slow(crowd: Crowd) -> None:
    print("before:", processes(crowd.service))
    for name, account in (("the same account", ""), ("another account", OTHER)):
        asked = (crowd.ask(f"Order {n}: the", 24, account=account, pause=0.5) for n in range(STREAMS))
        streams = [asyncio.create_task(one) for one in asked]
        await asyncio.sleep(1)
        print("meanwhile:", processes(crowd.service))
        await crowd.shorts(f"short requests beside {STREAMS} slow streams of {name}")
        tell(f"the {STREAMS} streams, a piece each half second", await asyncio.gather(*streams))
        await _quiet(crowd)
    print("after:", processes(crowd.service))


async def gone(crowd: Crowd) -> None:
    print("before:", processes(crowd.service))
    for turn in range(3):
        await asyncio.gather(*(crowd.vanish(1000 * turn + number) for number in range(100)))
        seconds = await _quiet(crowd)
        print(f"100 clients vanished; {seconds:.2f} s later the engine holds nothing of theirs", flush=True)
    await crowd.shorts("short requests afterwards")
    print("after:", processes(crowd.service))


async def training(crowd: Crowd, file: Path) -> None:
    await crowd.chats("chats alone", SECONDS)
    client = openai.AzureOpenAI(
        azure_endpoint=crowd.service.settings.endpoint, api_key=crowd.service.key, api_version="2024-10-21"
    )
    uploaded = await asyncio.to_thread(client.files.create, file=(file.name, file.read_bytes()), purpose="fine-tune")
    job = await asyncio.to_thread(client.fine_tuning.jobs.create, model=BUNDLED, training_file=uploaded.id)
    while job.status != "running":
        if job.status in ("failed", "cancelled"):
            raise SystemExit(f"the job is {job.status}: {job.error}")
        await asyncio.sleep(0.5)
        job = await asyncio.to_thread(client.fine_tuning.jobs.retrieve, job.id)
    await asyncio.sleep(15)  # its trainer loads
    await crowd.chats("chats while a job trains", 2 * SECONDS)
    print("the job is", (await asyncio.to_thread(client.fine_tuning.jobs.retrieve, job.id)).status)
    await asyncio.to_thread(client.fine_tuning.jobs.cancel, job.id)


async def _quiet(crowd: Crowd) -> float:
    """Seconds until the engine runs nothing and holds nothing."""
    began = time.monotonic()
    while True:
        usage = await engine_usage(crowd.service)
        if usage is None or not (usage.running or usage.waiting or usage.held_blocks or usage.pinned_adapters):
            return time.monotonic() - began
        await asyncio.sleep(0.02)


def _body(prompt: str, tokens: int) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": tokens, "stream": True, "temperature": 0, "logit_bias": NEVER_ENDS}


def prepared(home: Path, threads: int) -> Crowd:
    """Two accounts with the base deployed in each."""
    rooms = wiring.services(Settings(home=home))
    first = rooms.accounts.first()
    wanted = WantedAccount(location=first.location)
    other, _ = rooms.accounts.put(first.subscription_id, first.resource_group, OTHER, wanted, by="benchmark")
    for account in (first, other):
        rooms.deployer.put(account, "base", Wanted(model=BUNDLED), by="benchmark")
    keys = {"": rooms.accounts.keys(first)[0], OTHER: rooms.accounts.keys(other)[0]}
    rooms.close()
    return Crowd(Service(home, port=free_port(), threads=threads), keys)


async def run(crowd: Crowd, options: argparse.Namespace) -> None:
    while not (await crowd.ask("warm", 8)).complete or not (await crowd.ask("warm", 8, account=OTHER)).complete:
        await asyncio.sleep(0.2)
    for name, part in (("short", short), ("slow", slow), ("gone", gone)):
        if name in options.only:
            await part(crowd)
    if "training" in options.only:
        await training(crowd, options.training)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=["short", "slow", "gone"])
    parser.add_argument("--training", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        crowd = prepared(Path(home), options.threads)
        with serving(crowd.service):
            asyncio.run(run(crowd, options))


if __name__ == "__main__":
    main()
