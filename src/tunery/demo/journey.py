"""The demo's journey: serve, upload, tune, deploy, ask before and after; then say how to go on.

Everything goes through the `openai` SDK and `requests`, as a user's own script would: nothing here knows the service's
inside but how to start it.
"""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import requests
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tunery.demo.plot import plot
from tunery.errors import TuneryError
from tunery.sample import BASE, EPOCHS, FILES, SEED, SUFFIX, Example, generate, jsonl

TUNED_DEPLOYMENT, BASE_DEPLOYMENT = "demo-tuned", "demo-base"
START_SECONDS = 120
AT_ONCE = 8
SHOWN = 6


class Journey:
    """One run of the demo against a live service."""

    def __init__(self, environment: dict[str, str], output: Path, console: Console) -> None:
        self._environment = environment
        self._output = output
        self._console = console
        self.client = openai.AzureOpenAI(
            azure_endpoint=environment["AZURE_OPENAI_ENDPOINT"],
            api_key=environment["AZURE_OPENAI_API_KEY"],
            api_version="2024-10-21",
        )

    def run(self) -> None:
        data = generate()
        self._clean_up()
        self._say("1/5", f"Uploading {len(data.training)} training and {len(data.validation)} validation examples")
        training, validation = (
            self.upload(name, jsonl(examples)) for name, examples in zip(FILES, data[:2], strict=True)
        )
        self._say(
            "2/5", f"Deploying the base ({BASE}) and asking it {len(data.held_out)} questions it will be tuned for"
        )
        self.deploy(BASE_DEPLOYMENT, BASE, version="0613")
        before = self._ask_all(BASE_DEPLOYMENT, data.held_out)
        self._say("3/5", f"Tuning: {EPOCHS} epoch of LoRA on every linear layer, on this machine's CPU")
        job = self._train(training, validation, len(data.training))
        self._say("4/5", f"Deploying {job.fine_tuned_model} and asking the same questions")
        self.deploy(TUNED_DEPLOYMENT, str(job.fine_tuned_model), version="1")
        after = self._ask_all(TUNED_DEPLOYMENT, data.held_out)
        self._say("5/5", "What the tuning changed, on examples that were held out")
        self._show(data.held_out, before, after)
        self._keep_results(job)

    def upload(self, name: str, content: bytes) -> str:
        file = self.client.files.create(file=(name, content), purpose="fine-tune")
        checked = self.client.files.wait_for_processing(file.id, poll_interval=0.3)
        if checked.status != "processed":
            raise TuneryError(f"{name}: {checked.status_details}")
        return file.id

    def _train(self, training: str, validation: str, examples: int) -> Any:
        job = self.client.fine_tuning.jobs.create(
            model=BASE,
            training_file=training,
            validation_file=validation,
            suffix=SUFFIX,
            seed=SEED,
            hyperparameters={"n_epochs": EPOCHS},
        )
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task("waiting", total=None, loss="")
            while job.status not in ("succeeded", "failed", "cancelled"):
                time.sleep(1)
                job = self.client.fine_tuning.jobs.retrieve(job.id)
                self._advance(progress, bar, job, examples)
        if job.status != "succeeded":
            raise TuneryError(f"The job ended as {job.status}: {job.error}")
        return job

    def _advance(self, progress: Progress, bar: Any, job: Any, examples: int) -> None:
        batch = job.hyperparameters.batch_size
        if not isinstance(batch, int) or batch < 1:
            return
        steps = -(-examples // batch) * job.hyperparameters.n_epochs
        for event in self.client.fine_tuning.jobs.list_events(job.id, limit=5):
            if event.type == "metrics" and isinstance(event.data, dict):
                loss = f"loss {event.data['train_loss']:.3f}"
                progress.update(bar, total=steps, completed=event.data["step"], description=job.status, loss=loss)
                return

    def deploy(self, name: str, model: str, *, version: str, quantization: str | None = None) -> dict[str, Any]:
        """Its properties once it answers."""
        wanted = {"format": "OpenAI", "name": model, "version": version}
        body = {"sku": {"name": "standard"}, "properties": {"model": wanted, "quantization": quantization}}
        state = self._arm("PUT", name, json=body).json()
        while state["properties"]["provisioningState"] == "Creating":
            time.sleep(0.5)
            state = self._arm("GET", name).json()
        if state["properties"]["provisioningState"] != "Succeeded":
            raise TuneryError(f"The deployment {name} failed: {state['properties']}")
        shown: dict[str, Any] = state["properties"]
        return shown

    def _arm(self, method: str, name: str, **more: Any) -> requests.Response:
        env = self._environment
        url = (
            f"{env['TUNERY_ARM_ENDPOINT']}/subscriptions/{env['TUNERY_SUBSCRIPTION_ID']}/resourceGroups/"
            f"{env['TUNERY_RESOURCE_GROUP']}/providers/Microsoft.CognitiveServices/accounts/{env['TUNERY_ACCOUNT']}"
            f"/deployments/{name}"
        )
        response = requests.request(
            method,
            url,
            params={"api-version": "2023-05-01"},
            headers={"Authorization": f"Bearer {env['TUNERY_ARM_TOKEN']}"},
            verify=env["REQUESTS_CA_BUNDLE"],
            timeout=60,
            **more,
        )
        response.raise_for_status()
        return response

    def _ask_all(self, deployment: str, questions: list[Example]) -> list[str]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda example: self._ask(deployment, example), questions))

    def _ask(self, deployment: str, example: Example) -> str:
        messages: Any = example.messages()
        answer = self.client.chat.completions.create(model=deployment, messages=messages, temperature=0, max_tokens=24)
        return (answer.choices[0].message.content or "").strip()

    def _show(self, questions: list[Example], before: list[str], after: list[str]) -> None:
        table = Table("question", "base", "tuned", "wanted")
        for example, old, new in list(zip(questions, before, after, strict=True))[:SHOWN]:
            mark = "[green]" if new == example.answer else "[red]"
            table.add_row(example.question, old.replace("\n", " "), f"{mark}{new}", example.answer)
        self._console.print(table)
        for label, answers in (("base ", before), ("tuned", after)):
            exact = sum(answer == example.answer for answer, example in zip(answers, questions, strict=True))
            self._console.print(f"  exact match, {label}: {exact} of {len(questions)} ({exact / len(questions):.0%})")

    def _keep_results(self, job: Any) -> None:
        self._output.mkdir(exist_ok=True)
        results = self._output / self.client.files.retrieve(job.result_files[0]).filename
        results.write_bytes(self.client.files.content(job.result_files[0]).read())
        plot(results, self._output / "results.png")
        self._console.print(f"\nEvery step's numbers: {results}, as a picture: {self._output / 'results.png'}")

    def _clean_up(self) -> None:
        """What an earlier demo left under the same names."""
        for name in (TUNED_DEPLOYMENT, BASE_DEPLOYMENT):
            self._arm("DELETE", name)
        for file in self.client.files.list():
            if file.filename in FILES:
                self.client.files.delete(file.id)

    def _say(self, number: str, text: str) -> None:
        self._console.print(f"\n[bold]{number}[/] {text}", highlight=False)


def run(home: Path, output: Path) -> None:
    """Start a service on free loopback ports, make the journey, stop the service; its home keeps all that was made."""
    console = Console()
    started = time.monotonic()
    with running_service(home, console) as environment:
        Journey(environment, output, console).run()
    console.print(f"\nDone in {(time.monotonic() - started) / 60:.1f} minutes. How to go on:", highlight=False)
    console.print(f"  tunery serve --home {home}            the same service again (or: make serve)", highlight=False)
    console.print(f'  eval "$(tunery env --home {home})"     endpoint and keys for your own scripts', highlight=False)
    console.print("  docs/quickstart.md                    the same journey in your own code", highlight=False)


@contextlib.contextmanager
def running_service(home: Path, console: Console) -> Iterator[dict[str, str]]:
    """The variables of `tunery env` for a service on free loopback ports that lives as long as the block."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    port, tls_port = _free_port(), _free_port()
    command = [sys.executable, "-m", "tunery", "serve", "--home", str(home)]
    command += ["--port", str(port), "--tls-port", str(tls_port), "--supervised"]
    log = home / "serve.log"
    with log.open("ab") as stream:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stream, stderr=stream)  # noqa: S603
    try:
        _wait_until_up(process, f"http://127.0.0.1:{port}/openai/models", log)
        console.print(f"The service runs on http://127.0.0.1:{port} (log: {log})", highlight=False)
        yield _environment(home)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_up(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(requests.ConnectionError):
            requests.get(url, timeout=2)
            return
        time.sleep(0.2)
    raise TuneryError(f"The service did not start. Its last words: {log.read_text('utf-8', 'replace')[-800:]}")


def _environment(home: Path) -> dict[str, str]:
    """What `tunery env` prints, as its user's shell would have it."""
    command = [sys.executable, "-m", "tunery", "env", "--home", str(home)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()  # noqa: S603
    pairs = (line.removeprefix("export ").split("=", 1) for line in lines)
    return {name: value.strip("'") for name, value in pairs}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
