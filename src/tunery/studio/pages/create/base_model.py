"""First step: what to start from, a base or something tuned earlier."""

from nicegui import ui

from tunery.catalog import Start, model_of
from tunery.studio import parts
from tunery.studio.pages.create.findings import format_name
from tunery.studio.pages.create.wizard import Wizard
from tunery.studio.texts import shown_number, t


async def build(wizard: Wizard) -> None:
    rooms, account = wizard.visitor.rooms, wizard.visitor.account.id
    starts = await wizard.visitor.do("GET /fine_tuning/models", rooms.catalog.starts, account)
    by_model: dict[str, list[Start]] = {}
    for start in starts:
        by_model.setdefault(model_of(start.name), []).append(start)
    _dropdown(wizard, by_model)
    _versions(wizard, by_model)
    _card(wizard)


def _dropdown(wizard: Wizard, by_model: dict[str, list[Start]]) -> None:
    chosen = model_of(wizard.draft.model)
    choices = {name: name for name in by_model}
    select = ui.select(choices, label=t("create.base_model"), value=chosen if chosen in by_model else None)
    select.props("outlined use-input fill-input hide-selected input-debounce=0 options-dense").classes(
        "w-full max-w-2xl"
    )
    select.props["hint"] = t("create.base_model_hint")

    async def choose() -> None:
        if select.value:
            await wizard.choose(model=by_model[select.value][0].name)

    select.on_value_change(parts.shown(choose))

    def show() -> None:
        refusal = wizard.found.refusals.get("model")
        select.props["error"] = refusal is not None
        select.props["error-message"] = refusal.message if refusal else ""

    wizard.on_change(show)


def _versions(wizard: Wizard, by_model: dict[str, list[Start]]) -> None:
    """The checkpoints of the chosen model, where it has some."""
    place = ui.column().classes("w-full gap-0")
    shown_for = None

    def show() -> None:
        nonlocal shown_for
        model = model_of(wizard.draft.model)
        versions = by_model.get(model, [])
        if shown_for == model:
            return
        shown_for = model
        place.clear()
        if len(versions) > 1:
            with place:
                _version_select(wizard, versions)

    wizard.on_change(show)


def _version_select(wizard: Wizard, versions: list[Start]) -> None:
    choices = {
        one.name: t("create.final") if one.step is None else t("create.checkpoint", step=shown_number(one.step))
        for one in versions
    }
    value = wizard.draft.model if wizard.draft.model in choices else versions[0].name
    select = ui.select(choices, label=t("create.version"), value=value).props("outlined options-dense")
    select.classes("w-full max-w-2xl").props["hint"] = t("create.version_hint")

    async def choose() -> None:
        await wizard.choose(model=select.value)

    select.on_value_change(parts.shown(choose))


def _card(wizard: Wizard) -> None:
    """What the name stands for: nobody is told that a small model is a large one."""
    place = ui.column().classes("w-full gap-3")

    def show() -> None:
        place.clear()
        target = wizard.found.target
        if target is None:
            return
        model = target.base.model
        facts = {
            t("create.weights"): model.name,
            t("create.takes"): ", ".join(format_name(one) for one in sorted(wizard.found.formats)),
            t("create.context"): t("create.tokens", count=shown_number(model.context_length)),
            t("create.largest_batch"): shown_number(model.largest_batch),
        }
        with place:
            parts.facts(facts)

    wizard.on_change(show)
