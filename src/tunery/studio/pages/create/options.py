"""Fourth step: the defaults, or hyperparameters of one's own, each with its bounds and what automatic would be."""

from typing import Any

from nicegui import ui
from nicegui.elements.mixins.validation_element import ValidationElement

from tunery import recipe
from tunery.catalog import CHAT
from tunery.studio import parts
from tunery.studio.pages.create.draft import ADVANCED, DPO_NUMBERS, NUMBERS, TRAINING_TYPES, field_of
from tunery.studio.pages.create.findings import Found
from tunery.studio.pages.create.wizard import Wizard
from tunery.studio.texts import shown_number, t
from tunery.suitability import PREFERENCE


async def build(wizard: Wizard) -> None:
    fields: dict[str, ValidationElement[Any]] = {}
    with ui.column().classes("w-full gap-1"):
        fields["suffix"] = _text(wizard, "suffix")
        _help("suffix", longest=recipe.LONGEST_SUFFIX)
    _switch(wizard)
    with ui.column().classes("w-full gap-4") as automatic:
        _automatic(wizard)
    with ui.column().classes("w-full gap-1") as advanced:
        for name in (*NUMBERS, "seed"):
            fields[name] = _text(wizard, name)
            _help(name, **_bounds(wizard.found, name))
        fields["method"] = _select(wizard, "method", _methods(wizard.found))
        _help("method")
        with ui.column().classes("w-full gap-1") as preference:
            for name in DPO_NUMBERS:
                fields[name] = _text(wizard, name)
                _help(name, **_bounds(wizard.found, name))
        fields["type"] = _select(wizard, "type", {name: t(f"create.type_{name.lower()}") for name in TRAINING_TYPES})
        _help("type")

    def show() -> None:
        draft = wizard.draft
        automatic.set_visibility(not draft.advanced)
        advanced.set_visibility(draft.advanced)
        training = wizard.found.training
        preference.set_visibility(draft.method_for(training.format if training else None) == "dpo")
        _hints(wizard.found, fields)

    wizard.on_change(show)


def _switch(wizard: Wizard) -> None:
    choices = {"": t("create.default"), ADVANCED: t("create.advanced")}
    switch = ui.radio(choices, value=wizard.draft.options).props("inline")
    switch.props["aria-label"] = t("create.step_options")

    async def choose() -> None:
        await wizard.choose(options=switch.value)
        wizard.tell()

    switch.on_value_change(parts.shown(choose))


def _automatic(wizard: Wizard) -> None:
    """What the defaults come to for this data."""
    place = ui.column().classes("w-full gap-2")

    def show() -> None:
        place.clear()
        with place:
            ui.label(t("create.default_about")).classes("quiet max-w-prose")
            if wizard.found.recipe is not None:
                parts.facts({t(f"create.{name}"): value for name, value in chosen(wizard.found.recipe).items()})

    wizard.on_change(show)


def chosen(found: recipe.Recipe) -> dict[str, str]:
    """What is trained with, by the name of the draft's field."""
    numbers = {name: shown_number(getattr(found, name), digits=6) for name in NUMBERS}
    if found.dpo is None:
        return {**numbers, "method": t("create.method_supervised")}
    return {**numbers, "method": t("create.method_dpo"), "beta": shown_number(found.dpo.beta, digits=6)}


def _text(wizard: Wizard, name: str) -> ui.input:
    field = ui.input(t(f"create.{name}"), value=getattr(wizard.draft, name))
    field.props("outlined dense autocomplete=off debounce=300 stack-label hide-bottom-space").classes("w-full max-w-md")
    if name != "suffix":
        field.props["inputmode"] = "decimal"
        field.props["placeholder"] = t("create.random") if name == "seed" else t("create.automatic_yet")

    async def choose() -> None:
        await wizard.choose(**{name: field.value or ""})

    field.on_value_change(parts.shown(choose))
    return field


def _select(wizard: Wizard, name: str, choices: dict[str, str]) -> ui.select:
    select = ui.select(choices, label=t(f"create.{name}"), value=getattr(wizard.draft, name))
    select.props("outlined dense options-dense hide-bottom-space").classes("w-full max-w-md")

    async def choose() -> None:
        await wizard.choose(**{name: select.value})
        wizard.tell()

    select.on_value_change(parts.shown(choose))
    return select


def _methods(found: Found) -> dict[str, str]:
    of_data = PREFERENCE if found.training is not None and found.training.format == PREFERENCE else CHAT
    fitting = t("create.method_dpo") if of_data == PREFERENCE else t("create.method_supervised")
    named = {name: t(f"create.method_{name}") for name in recipe.METHODS}
    return {"": t("create.method_fitting", method=fitting), **named}


def _help(name: str, **values: str | int) -> None:
    ui.label(t(f"create.{name}_help", **values)).classes("quiet text-sm max-w-prose pb-3")


def _bounds(found: Found, name: str) -> dict[str, str]:
    if name == "batch_size":
        most = found.target.base.model.largest_batch if found.target else 64
        return {"low": "1", "high": shown_number(most)}
    if name == "learning_rate_multiplier":
        rate = shown_number(found.target.base.model.learning_rate, digits=6) if found.target else "–"
        return {"high": shown_number(recipe.MULTIPLIER[1]), "rate": rate}
    if name == "n_epochs":
        return {"low": shown_number(recipe.EPOCHS[0]), "high": shown_number(recipe.EPOCHS[1])}
    return {"high": shown_number(recipe.BETA[1])} if name == "beta" else {"high": shown_number(recipe.SEEDS - 1)}


def _hints(found: Found, fields: dict[str, ValidationElement[Any]]) -> None:
    """Refusals at the fields that they are about; what automatic has chosen in the empty ones."""
    refusal = found.refusals.get("options")
    about = field_of(refusal.param) if refusal is not None else ""
    for name, field in fields.items():
        field.error = refusal.message if refusal is not None and name == about else None
        if found.recipe is not None and name in (*NUMBERS, *DPO_NUMBERS):
            value = chosen(found.recipe).get(name, "")
            field.props["placeholder"] = t("create.automatic", value=value)
