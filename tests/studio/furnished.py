"""A service that looks lived in: what screenshots show, and what accessibility and rights are tested on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.studio.serving import CHAT_BASE, StudioService
from tunery.records import Account
from tunery.sample import generate, jsonl

LONG_NAME = "customer-support-conversations-2026-Q3-anonymised-and-deduplicated-by-hand-FINAL-v12-copy.jsonl"
QUESTIONS = {"playground": "My helmet still hasn't arrived. Order number 1906."}
ANSWERS = ["I'm sorry ", "for your loss. ", "Please ", "contact the post office."], ["LATE ", "HEL ", "#1906"]
RUNNING_STEP = 84
USER = "Cognitive Services OpenAI User"


@dataclass
class Place:
    """One page as somebody finds it."""

    name: str
    path: str
    account: Account
    signed_in: bool = True
    question: str = ""
    """What the playground is asked before it is looked at."""


def furnish(service: StudioService) -> list[Place]:
    """Files, jobs in every state, deployments and calls; every page of Studio, full and empty."""
    account, empty = service.account, an_account(service, "sandbox")
    files = _files(service)
    jobs = _jobs(service, files)
    _deployments(service, jobs["learns"].fine_tuned_model)
    first, second = jobs["learns"].id, jobs["overfits"].id
    chosen = f"model=gpt-35-turbo-0613&training={files['training']}&validation={files['validation']}"
    paths = {
        "home": "/",
        "create": "/create",
        "create-again": f"/create?model={jobs['learns'].fine_tuned_model}",
        "create-training": f"/create?{chosen}&step=training",
        "create-options": f"/create?{chosen}&step=options&options=advanced&n_epochs=99",
        "create-review": f"/create?{chosen}&step=review&suffix=first",
        "files": "/files",
        "file": f"/files/{files['training']}",
        "file-findings": f"/files/{files['faulty']}",
        "models": "/models",
        "models-base": "/models?tab=base",
        "model": f"/models/{first}",
        "model-overfitted": f"/models/{second}",
        "model-running": f"/models/{jobs['running'].id}",
        "model-failed": f"/models/{jobs['failed'].id}",
        "compare": f"/compare?job={first}&job={second}",
        "deployments": "/deployments",
        "playground": "/playground?deployment=plain,tickets",
    }
    bare = ("home", "files", "models", "deployments", "playground")
    return [
        Place("sign-in", "/studio/sign-in", account, signed_in=False),
        *(Place(name, f"/studio{path}", account, question=QUESTIONS.get(name, "")) for name, path in paths.items()),
        *(Place(f"{name}-empty", f"/studio{paths[name].partition('?')[0]}", empty) for name in bare),
        Place("file-unknown", "/studio/files/file-00000000000000000000000000000000", account),
    ]


def an_account(service: StudioService, name: str) -> Account:
    """A second one, with nothing in it."""
    group = service.account.arm_id.rpartition("/")[0]
    answer = service.management("PUT", f"{group}/{name}", json={"location": service.account.location})
    assert answer.ok, answer.text
    return service.rooms.accounts.named(name)


def _files(service: StudioService) -> dict[str, str]:
    data = generate()
    lines = jsonl(data.training).decode().splitlines()
    faulty = [*lines[:20], '{"messages": [{"role": "user", "content": "No answer here"}]}', lines[3][:-2]]
    faulty += [lines[3].replace('"assistant"', '"asistant"'), lines[5], lines[5]]
    completions = [{"prompt": f"{one.question}\nTicket:", "completion": f" {one.answer}\n"} for one in data.held_out]
    return {
        "long": service.file(LONG_NAME, jsonl(data.training[:64])),
        "completions": service.file("completions.jsonl", "\n".join(json.dumps(one) for one in completions).encode()),
        "faulty": service.file("export from the CRM, März.jsonl", "\n".join(faulty).encode()),
        "validation": service.file("tickets-validation.jsonl", jsonl([*data.validation, *data.training[:3]])),
        "training": service.file("tickets-training.jsonl", jsonl(data.training)),
    }


def _jobs(service: StudioService, files: dict[str, str]) -> dict[str, Any]:
    """In the order in which they ran; the last ones are running and waiting."""
    validated = {"validation_file": files["validation"]}
    service.pull("train", fails="The loss is not a number at step 3. Try a smaller learning_rate_multiplier.")
    jobs = {"failed": service.job(files["long"], hyperparameters={"learning_rate_multiplier": 9.5})}
    service.pull("train", steps=90, overfits=True)
    jobs["overfits"] = service.job(files["training"], **validated, suffix="too-many-epochs", seed=7)
    service.pull("train", steps=120)
    jobs["learns"] = service.job(files["training"], **validated, suffix="tickets", metadata={"team": "support"})
    service.pull("hold", RUNNING_STEP)
    again = {"model": jobs["learns"].fine_tuned_model, **validated}
    jobs["running"] = service.job(files["long"], **again, suffix="tickets-second-round", until=["running"])
    jobs["cancelled"] = service.job(files["training"], until=["pending"])
    service.azure().fine_tuning.jobs.cancel(jobs["cancelled"].id)
    jobs["waiting"] = service.job(files["training"], until=["pending"])
    return jobs


def _deployments(service: StudioService, model: str) -> None:
    service.deployment("tickets", model)
    service.deployment("plain", CHAT_BASE)
    service.pull("break_engine", "The engine of 'smollm2-135m-instruct' ended while it loaded the adapter.")
    service.deployment("davinci-for-the-marketing-department-of-northwind-wheels", "davinci-002")
    service.pull("break_engine", None)
    service.pull("answer", *ANSWERS)
    for question in ("Where is my helmet?", "The pump of order 1356 is broken."):
        service.azure().chat.completions.create(model="tickets", messages=[{"role": "user", "content": question}])


def folder() -> Path:
    """Where the pictures lie."""
    return Path(__file__).parent.parent.parent / "docs" / "studio"
