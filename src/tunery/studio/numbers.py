"""Hyperparameters of a job as its user reads them."""

from typing import NamedTuple

from nicegui import ui

from tunery.records import Job
from tunery.studio import parts
from tunery.studio.texts import shown_number, t

NAMES = ("n_epochs", "batch_size", "learning_rate_multiplier")


class Setting(NamedTuple):
    """A hyperparameter: what was asked for, and what it came to."""

    asked: str
    used: str


def hyperparameters(job: Job) -> dict[str, Setting]:
    """Each by its name in the API."""
    resolved = job.resolved or {}
    found = {name: Setting(_asked(job.requested.get(name)), _number(resolved.get(name))) for name in NAMES}
    found["learning_rate"] = Setting("–", _number(resolved.get("learning_rate")))
    found["seed"] = Setting(str(job.seed), str(job.seed))
    known = resolved.get("dpo") or {}
    for name, value in (job.requested.get("dpo") or {}).items():
        found[name] = Setting(_asked(value), _number(known.get(name)))
    return found


def settings_table(job: Job) -> None:
    parts.titled("h2", t("model.hyperparameters"), "text-lg font-medium m-0")
    with ui.element("table").classes("w-full text-left"):
        with ui.element("thead"), ui.element("tr"):
            for text in ("number", "asked", "used"):
                _cell("th", t(f"model.{text}"), "quiet font-semibold", scope="col")
        with ui.element("tbody"):
            for name, setting in hyperparameters(job).items():
                with ui.element("tr"):
                    _cell("th", name, "font-normal break-all", scope="row")
                    _cell("td", setting.asked, "")
                    _cell("td", setting.used, "font-medium")


def _cell(tag: str, text: str, classes: str, scope: str = "") -> None:
    with ui.element(tag).classes(f"pr-4 py-0.5 {classes}") as cell:
        if scope:
            cell.props["scope"] = scope
        ui.label(text)


def _asked(value: object) -> str:
    return t("model.automatic") if value in (None, -1, "auto") else _number(value)


def _number(value: object) -> str:
    return shown_number(value, digits=6) if isinstance(value, int | float) else "–" if value is None else str(value)
