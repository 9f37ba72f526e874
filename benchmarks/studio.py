"""How long Studio's pages take on a full database, and what Studio costs the service that carries it.

    python benchmarks/studio.py [--files 1000] [--jobs 200] [--events 100000] [--runs 7] [--json OUT]

`answer` is the time from a request to the last byte of the page, `shown` the one from entering the address in Chromium
until the page's rows can be seen; medians of the runs, the slowest behind them. The goal is 300 ms for the answer.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from playwright.sync_api import Page, sync_playwright

from live import Service, free_port, resident_mib, serving
from tunery import wiring
from tunery.messages import StepMetrics
from tunery.records import new_id
from tunery.results import metrics_on_the_wire, results_csv
from tunery.rooms import Services
from tunery.sample import generate, jsonl
from tunery.settings import load
from tunery.store import tables
from tunery.studio.sessions import Sessions

GOAL_MS = 300
BASE, WEIGHTS = "gpt-35-turbo-0613", "smollm2-135m-instruct"
LONG_RUN = 2000
"""Steps of the newest job; the others have as many as their events."""
DAYS = 30
TODAY = 1_790_000_000


class Filling:
    """Rows of one account, written past the rooms that would check and train them."""

    def __init__(self, rooms: Services, *, files: int, jobs: int, events: int) -> None:
        self._rooms, self._account = rooms, rooms.accounts.first().id
        self._files, self._jobs, self._events = files, jobs, events

    def fill(self) -> tuple[str, list[str]]:
        """The id of a file, and those of the jobs, newest first."""
        files = [self._file(number) for number in range(self._files)]
        self._insert(tables.files, files)
        jobs = [self._job(number, files[number % len(files)]["id"]) for number in range(self._jobs)]
        self._insert(tables.jobs, jobs)
        each = self._events // len(jobs)
        for number, job in enumerate(jobs):
            steps = LONG_RUN if number == len(jobs) - 1 else min(each, 200)
            rows = [_measured(step, steps) for step in range(1, steps + 1)]
            values = [{"job_id": job["id"], "step": row.step, "values": _builtins(row)} for row in rows]
            self._insert(tables.metrics, values)
            self._insert(tables.events, (_event(job["id"], step, rows[step % steps]) for step in range(each)))
            self._results(job, rows)
        self._models(jobs)
        return str(files[-1]["id"]), [job["id"] for job in reversed(jobs)]

    def _file(self, number: int, content: bytes | None = None) -> dict[str, Any]:
        file_id, content = new_id("file-"), content or jsonl(generate(number % 7).training[:20])
        with self._rooms.store.blobs.write(f"files/{file_id}") as stream:
            stream.write(content)
        return {
            "id": file_id,
            "account_id": self._account,
            "purpose": "fine-tune",
            "filename": f"conversations-{number:04}.jsonl",
            "bytes": len(content),
            "blob": f"files/{file_id}",
            "created_at": TODAY - 3600 * (self._files - number),
            "status": "processed",
            "format": "chat",
            "examples": 20,
        }

    def _job(self, number: int, file_id: str) -> dict[str, Any]:
        job_id = new_id("ftjob-")
        began = TODAY - 7200 * (self._jobs - number)
        chosen = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0, "learning_rate": 0.002}
        return {
            "id": job_id,
            "account_id": self._account,
            "created_at": began,
            "started_at": began + 5,
            "finished_at": began + 1200,
            "status": "succeeded",
            "model": BASE,
            "base": BASE,
            "training_file": file_id,
            "validation_file": file_id,
            "requested": {"n_epochs": -1},
            "resolved": chosen,
            "seed": number,
            "step": 200,
            "total_steps": 200,
            "trained_tokens": 60_000,
            "fine_tuned_model": f"{BASE}.ft-{job_id.removeprefix('ftjob-')}",
        }

    def _results(self, job: dict[str, Any], rows: list[StepMetrics]) -> None:
        file = self._file(0, results_csv(rows))
        file |= {"purpose": "fine-tune-results", "filename": "results.csv", "format": None}
        self._insert(tables.files, [file])
        with self._rooms.store.database.begin() as connection:
            mine = tables.jobs.c.id == job["id"]
            connection.execute(sa.update(tables.jobs).where(mine).values(result_file=file["id"]))

    def _models(self, jobs: list[dict[str, Any]]) -> None:
        """A model of each job, with three checkpoints; 32 of them deployed and called every day."""
        own = {"account_id": self._account, "created_at": TODAY}
        for job in jobs:
            model = {**own, "job_id": job["id"], "name": job["fine_tuned_model"], "adapter": job["id"]}
            self._insert(tables.models, [model | {"base": BASE, "parent": BASE}])
            steps = {100: ":ckpt-step-100", 150: ":ckpt-step-150", 200: ""}
            made = [
                model
                | {"id": new_id("ftchkpt-"), "step": step, "name": model["name"] + tail, "metrics": {"step": step}}
                for step, tail in steps.items()
            ]
            self._insert(tables.checkpoints, made)
        for job in jobs[:32]:
            self._deployment(f"d-{job['id'][-12:]}", job["fine_tuned_model"], job["id"])

    def _deployment(self, name: str, model: str, adapter: str) -> None:
        times = {"created_at": TODAY, "updated_at": TODAY}
        row = {"account_id": self._account, "name": name, "name_folded": name, "model": model, "custom_model": model}
        row |= {"model_format": "OpenAI", "model_version": "1", "base": BASE, "adapter": adapter, "state": "Succeeded"}
        self._insert(tables.deployments, [row | times | {"sku_name": "Standard", "etag": name, "created_by": "bench"}])
        used = {"requests": 40, "prompt_tokens": 9000, "cached_tokens": 0, "completion_tokens": 800}
        days = (time.strftime("%Y-%m-%d", time.gmtime(TODAY - 86_400 * day)) for day in range(DAYS))
        meter = {"account_id": self._account, "deployment": name, "made_at": TODAY, "model": model} | used
        self._insert(tables.meters, [meter | {"day": day, "hosted_seconds": 86_400.0} for day in days])

    def _insert(self, table: sa.Table, rows: Iterable[dict[str, Any]]) -> None:
        with self._rooms.store.database.begin() as connection:
            connection.execute(sa.insert(table), list(rows))


def _measured(step: int, steps: int) -> StepMetrics:
    loss = 0.08 + 3 * math.exp(-5 * step / steps) * (1 + 0.15 * math.sin(step * 12.9))
    valid = loss * 1.1 if step % 10 == 0 else None
    return StepMetrics(
        step=step,
        train_loss=loss,
        training_accuracy=math.exp(-loss),
        train_mean_token_accuracy=math.exp(-loss / 3),
        valid_loss=valid,
        valid_mean_token_accuracy=None if valid is None else math.exp(-valid / 3),
    )


def _builtins(row: StepMetrics) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__struct_fields__}


def _event(job_id: str, step: int, row: StepMetrics) -> dict[str, Any]:
    said = f"Step {step}: training loss={row.train_loss:.2f}"
    return {
        "id": new_id("ftevent-"),
        "job_id": job_id,
        "key": f"step:{step}",
        "created_at": TODAY + step,
        "level": "info",
        "message": said,
        "type": "metrics",
        "data": metrics_on_the_wire(row),
    }


def pages(file: str, jobs: list[str]) -> dict[str, str]:
    return {
        "home": "/",
        "create": "/create",
        "files": "/files",
        "a file": f"/files/{file}",
        "models": "/models",
        "base models": "/models?tab=base",
        f"a model, {LONG_RUN:,} steps": f"/models/{jobs[0]}",
        "compare two": f"/compare?job={jobs[0]}&job={jobs[1]}",
        "deployments": "/deployments",
        "playground": "/playground",
    }


def median_of(runs: int, work: Callable[[], object]) -> tuple[float, float]:
    """Median and slowest, in milliseconds; one run before them isn't counted."""
    taken = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken[1:]), max(taken[1:])


def measure(
    service: Service, cookie: tuple[str, str], wanted: dict[str, str], runs: int
) -> dict[str, dict[str, float]]:
    root, found = f"http://127.0.0.1:{service.port}/studio", {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1280, "height": 860})
        context.add_cookies([{"name": cookie[0], "value": cookie[1], "domain": "127.0.0.1", "path": "/studio"}])
        page = context.new_page()
        for name, path in wanted.items():
            request = urllib.request.Request(root + path, headers={"Cookie": "=".join(cookie), "Accept": "text/html"})
            answer = median_of(runs, partial(fetch, request))
            shown = median_of(runs, partial(look, page, root + path))
            found[name] = dict(zip(("answer", "answer_worst", "shown", "shown_worst"), (*answer, *shown), strict=True))
        browser.close()
    return found


def fetch(request: urllib.request.Request) -> None:
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()


def look(page: Page, target: str) -> None:
    page.goto(target, wait_until="commit")
    page.wait_for_function("document.querySelector('main, [role=main]')?.querySelector('tbody tr, canvas, h1')")


def cost(service: Service, home: Path) -> dict[str, float]:
    """Memory of the web process in MiB and seconds until it answers, without Studio and with it."""
    found: dict[str, float] = {}
    for name, wanted in (("without", "false"), ("with", "true")):
        (home / "tunery.toml").write_text(f"studio = {wanted}\n")
        with serving(service) as seconds:
            (web,) = service.pids("tunery serve")
            found |= {f"{name}_mib": resident_mib(web), f"{name}_seconds": seconds}
    traced = [sys.executable, "-X", "importtime", "-c", "import tunery.cli, tunery.studio.mount"]
    lines = subprocess.run(traced, capture_output=True, text=True, check=True).stderr.splitlines()
    for name in ("nicegui", "tunery.cli"):
        line = next(line for line in lines if line.rsplit("|", 1)[-1].strip() == name)
        found[f"import_{name}_seconds"] = int(line.split("|")[1]) / 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("files", 1000), ("jobs", 200), ("events", 100_000), ("runs", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        rooms = wiring.services(load(home=home))
        file, jobs = Filling(rooms, files=given.files, jobs=given.jobs, events=given.events).fill()
        sessions = Sessions(rooms)
        service = Service(home, port=free_port())
        cookie = (f"tunery_studio_{service.port}", sessions.by_key(service.key))
        rooms.close()
        costs = cost(service, home)
        with serving(service):
            times = measure(service, cookie, pages(file, jobs), given.runs)
            costs["after_all_pages_mib"] = resident_mib(service.pids("tunery serve")[0])
    for name, row in times.items():
        verdict = "" if row["answer"] <= GOAL_MS else f"  over {GOAL_MS} ms"
        print(
            f"{name:24} answer {row['answer']:5.0f} ms ({row['answer_worst']:.0f})   "
            f"shown {row['shown']:5.0f} ms ({row['shown_worst']:.0f}){verdict}"
        )
    print("  ".join(f"{name} {value:.2f}" for name, value in costs.items()))
    if given.json:
        given.json.write_text(json.dumps({"pages": times, "cost": costs}, indent=1))


if __name__ == "__main__":
    main()
