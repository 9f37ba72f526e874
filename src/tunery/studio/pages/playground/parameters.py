"""System message and parameters, each with its range and what it does."""

from collections.abc import Callable
from typing import Any

from nicegui import ui

from tunery.api.sampling import MOST_STOPS
from tunery.catalog import CHAT
from tunery.studio.pages.playground.screen import Screen
from tunery.studio.texts import t

FORMS = ("text", "json_object", "json_schema")
NUMBERS = (
    ("temperature", 0.0, 2.0, 0.1),
    ("top_p", 0.0, 1.0, 0.05),
    ("frequency_penalty", -2.0, 2.0, 0.1),
    ("presence_penalty", -2.0, 2.0, 0.1),
)
"""Name, least, most, step."""


def parameters(screen: Screen) -> None:
    with ui.card().classes("w-full p-4 gap-5"):
        if screen.kind == CHAT:
            _system(screen)
        _whole(screen, "max_tokens", 1)
        for name, low, high, step in NUMBERS:
            _number(screen, (name, low, high, step))
        _stop(screen)
        _whole(screen, "seed", None)
        if screen.kind == CHAT:
            _form(screen)


def _system(screen: Screen) -> None:
    def keep(value: str) -> None:
        screen.shown.talk.system = value
        screen.touch()

    area = ui.textarea(t("playground.system"), value=screen.shown.talk.system, on_change=lambda e: keep(e.value or ""))
    area.props("outlined autogrow input-class=max-h-60").classes("w-full")
    area.props["hint"] = t("playground.system_hint")


def _keeper(screen: Screen, name: str, otherwise: Any) -> Callable[[Any], None]:
    def keep(value: Any) -> None:
        setattr(screen.shown.talk.choices, name, otherwise if value is None else value)
        screen.touch()

    return keep


def _number(screen: Screen, given: tuple[str, float, float, float]) -> None:
    name, low, high, step = given
    keep = _keeper(screen, name, 1.0 if low == 0 else 0.0)
    field = ui.number(
        t(f"playground.{name}"),
        value=getattr(screen.shown.talk.choices, name),
        min=low,
        max=high,
        step=step,
        precision=2,
        on_change=lambda event: keep(None if event.value is None else float(event.value)),
    )
    field.props("outlined dense").classes("w-full").props["hint"] = t(f"playground.{name}_hint")


def _whole(screen: Screen, name: str, least: int | None) -> None:
    keep = _keeper(screen, name, None)
    field = ui.number(
        t(f"playground.{name}"),
        value=getattr(screen.shown.talk.choices, name),
        min=least,
        precision=0,
        on_change=lambda event: keep(None if event.value is None else int(event.value)),
    )
    field.props("outlined dense clearable").classes("w-full").props["hint"] = t(f"playground.{name}_hint")


def _stop(screen: Screen) -> None:
    choices = screen.shown.talk.choices

    def keep(given: list[str]) -> None:
        choices.stop = [text for text in given if text][:MOST_STOPS]
        screen.touch()

    chips = ui.input_chips(
        t("playground.stop"), value=choices.stop, new_value_mode="add-unique", on_change=lambda e: keep(e.value or [])
    )
    chips.props(f"outlined dense max-values={MOST_STOPS}").classes("w-full").props["hint"] = t("playground.stop_hint")


def _form(screen: Screen) -> None:
    choices = screen.shown.talk.choices
    keep_form, keep_schema = _keeper(screen, "form", "text"), _keeper(screen, "schema", "")
    names = {form: t(f"playground.form_{form}") for form in FORMS}
    select = ui.select(names, label=t("playground.form"), value=choices.form, on_change=lambda e: keep_form(e.value))
    select.props("outlined dense options-dense").classes("w-full").props["hint"] = t("playground.form_hint")
    area = ui.textarea(t("playground.schema"), value=choices.schema, on_change=lambda e: keep_schema(e.value))
    area.props("outlined autogrow input-class=font-mono").classes("w-full")
    area.bind_visibility_from(select, "value", value="json_schema")
