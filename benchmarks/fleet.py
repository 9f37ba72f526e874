"""A thousand deployments on one base, over the whole service: python benchmarks/fleet.py make|deploy|measure

`make` writes the homes: tuned models of rank 16 (random, each with its probe), as if jobs had made them; some 10 GB for
a thousand. `deploy` PUTs a deployment for each and waits until all answer. `measure` starts the service anew and tells:
when it answers, how long listings take, the first token of adapters in memory and of others, whether every deployment
answers, how fast eight of all are beside eight of eight (a second home), and what memory all that takes.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from live import Answer, Service, free_port, processes, quantile, serving
from tunery import adapters, wiring
from tunery.catalog import BUNDLED
from tunery.models import loader, lora, probe
from tunery.models.lora import Lora
from tunery.models.tokenizer import Tokenizer
from tunery.serving.compiled import linear_for
from tunery.settings import load
from tunery.store.tables import models

ACTIVE = 8
TOML = "max_deployments = 5000\nmax_tuned_deployments = 5000\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("make", "deploy", "measure"))
    parser.add_argument("--folder", type=Path, default=Path(".peers/fleet"))
    parser.add_argument("--deployments", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=48)
    options = parser.parse_args()
    many, few = options.folder / "many", options.folder / "few"
    if options.part == "make":
        make(many, options.deployments)
        make(few, ACTIVE)
    elif options.part == "deploy":
        deploy(Service(many, port=free_port()), options.deployments)
        deploy(Service(few, port=free_port()), ACTIVE)
    else:
        measure(Service(many, port=free_port()), Service(few, port=free_port()), options)


def make(home: Path, count: int) -> None:
    """Tuned models without the jobs that would have made them."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "tunery.toml").write_text(TOML)
    rooms = wiring.services(load(home=home))
    account, blobs = rooms.accounts.first(), rooms.store.blobs
    base = rooms.settings.models / BUNDLED
    decoder = loader.load(str(base), "cpu", linear=linear_for("cpu"))
    question = probe.prompt(Tokenizer.load(base))
    for number in range(count):
        folder = home / "made"
        _adapter(decoder, number).save(folder, BUNDLED)
        taken = Lora.load(folder, decoder.config)
        probe.measure(decoder, taken, question).write(folder)
        digest = lora.digest(folder)
        path = Path(blobs.path(adapters.blob(digest)))
        path.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(path)
        row = {"name": f"{BUNDLED}.ft-{number:04}", "account_id": account.id, "base": BUNDLED, "parent": BUNDLED}
        row |= {"job_id": f"ftjob-{number:032}", "adapter": digest, "created_at": int(time.time())}
        with rooms.store.database.begin() as connection:
            connection.execute(models.insert().values(row))
    rooms.close()
    print(f"{home}: {count} tuned models")


def _adapter(decoder: Any, seed: int) -> Lora:
    adapter = Lora.fresh(decoder.config, rank=16, alpha=32.0, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for stack in adapter.b.values():
        for tensor in stack:
            tensor.copy_(0.02 * torch.randn(tensor.shape, generator=generator))
    return adapter


def deploy(service: Service, count: int) -> None:
    with serving(service):
        began = time.perf_counter()
        for number in range(count):
            model = {"format": "OpenAI", "name": f"{BUNDLED}.ft-{number:04}", "version": "1"}
            body = {"sku": {"name": "Standard"}, "properties": {"model": model}}
            service.arm("PUT", f"/deployments/d{number:04}", body)
        put = time.perf_counter() - began
        while states := {one["properties"]["provisioningState"] for one in _listed(service)} - {"Succeeded"}:
            if "Failed" in states:
                raise SystemExit(f"a deployment failed: {states}")
            time.sleep(0.5)
        total = time.perf_counter() - began
    print(
        f"{count} deployments: PUT in {put:.1f} s, all answer after {total:.1f} s, {1000 * total / count:.0f} ms each"
    )


def measure(many: Service, few: Service, options: argparse.Namespace) -> None:
    with serving(many) as started:
        print(f"{options.deployments} deployments: the service answers {started:.2f} s after its start")
        first = asyncio.run(many.ask("d0000", _body("x", 1)))
        print(f"first answer of all, the base is loaded for it: {first.seconds:.1f} s, status {first.status}")
        _listings(many, options.deployments)
        with serving(few):
            _first_tokens(many, options.deployments)
            _active_sets(many, few, options)
        _all_of_them(many, options.deployments)


def _listed(service: Service) -> list[Any]:
    found: list[Any] = service.arm("GET", "/deployments")["value"]
    return found


def _listings(service: Service, count: int) -> None:
    calls: dict[str, Callable[[], Any]] = {
        "all deployments (ARM)": lambda: _listed(service),
        "one deployment (ARM)": lambda: service.arm("GET", f"/deployments/d{count // 2:04}"),
        "all models": lambda: service.http("GET", "/openai/models?api-version=2024-10-21"),
    }
    for name, call in calls.items():
        times = []
        for _ in range(5):
            began = time.perf_counter()
            call()
            times.append(1000 * (time.perf_counter() - began))
        print(f"{name}: {statistics.median(times):.0f} ms")


def _first_tokens(service: Service, count: int) -> None:
    """One after another: of adapters that aren't in memory, and of the same ones again."""
    chosen = random.Random(1).sample(range(1, count), 40)

    async def ask_each() -> list[float]:
        return [(await service.ask(f"d{number:04}", _body(f"Order {number}", 1))).first_ms for number in chosen]

    for name in ("not in memory", "in memory"):
        times = asyncio.run(ask_each())
        print(
            f"first token, adapter {name}: p50 {quantile(times, 0.5):.0f}, p99 {quantile(times, 0.99):.0f}, "
            f"most {max(times):.0f} ms"
        )


def _active_sets(many: Service, few: Service, options: argparse.Namespace) -> None:
    """Eight deployments at once, a request each, services in turns."""
    speeds: dict[str, list[float]] = {"of all": [], "of eight": []}
    numbers = random.Random(2).sample(range(options.deployments), ACTIVE)
    for turn in range(-1, 4):
        for name, service, chosen in (("of all", many, numbers), ("of eight", few, list(range(ACTIVE)))):
            names = [f"d{number:04}" for number in chosen for _ in range(2)]
            answers = asyncio.run(_together(service, names, f"{turn}", options.tokens))
            seconds = max(answer.ended for answer in answers) - min(answer.began for answer in answers)
            if turn >= 0:
                speeds[name].append(len(answers) * options.tokens / seconds)
    for name, found in speeds.items():
        told = ", ".join(f"{speed:.0f}" for speed in found)
        print(f"16 requests to 8 deployments {name}: {statistics.median(found):.0f} tokens/s ({told})")


async def _together(service: Service, names: list[str], salt: str, tokens: int) -> list[Answer]:
    bodies = [_body(f"Order {salt}{number}: write a long letter", tokens) for number in range(len(names))]
    return await asyncio.gather(*(service.ask(name, body) for name, body in zip(names, bodies, strict=True)))


def _all_of_them(service: Service, count: int) -> None:
    """A token of each, eight at a time, in random order."""
    numbers = random.Random(3).sample(range(count), count)
    statuses: dict[int, int] = {}
    firsts: list[float] = []

    async def client() -> None:
        while numbers:
            number = numbers.pop()
            answer = await service.ask(f"d{number:04}", _body(f"Order {number}", 1))
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
            firsts.append(answer.first_ms)

    async def all_clients() -> None:
        await asyncio.gather(*(client() for _ in range(8)))

    began = time.perf_counter()
    asyncio.run(all_clients())
    print(
        f"every deployment once, 8 at a time: {time.perf_counter() - began:.0f} s, statuses {statuses}, first token "
        f"p50 {quantile(firsts, 0.5):.0f}, p99 {quantile(firsts, 0.99):.0f} ms"
    )
    print(processes(service))


def _body(prompt: str, tokens: int) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "logit_bias": {"0": -100, "2": -100},
    }


if __name__ == "__main__":
    main()
