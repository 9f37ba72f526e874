"""The page itself: the step that the address names, in the frame that all steps share."""

from collections.abc import Awaitable, Callable

from nicegui import ui

from tunery.errors import InvalidRequest
from tunery.studio import parts
from tunery.studio.frame import page
from tunery.studio.pages.create import base_model, data, findings, options, review
from tunery.studio.pages.create.draft import Draft, read
from tunery.studio.pages.create.wizard import Wizard, progress, step_list, way_on
from tunery.studio.texts import t
from tunery.studio.visitor import Visitor

Builder = Callable[[Wizard], Awaitable[None]]
BUILDERS: dict[str, Builder] = {
    "model": base_model.build,
    "training": data.build_training,
    "validation": data.build_validation,
    "options": options.build,
    "review": review.build,
}
POLL_SECONDS = 2.0


@page("/create", "create.title")
async def create(visitor: Visitor) -> None:
    wizard = await _opened(visitor, read(ui.context.client.request.query_params))
    step = wizard.draft.step
    parts.heading(t("create.title"))
    _region(visitor)
    with ui.element("div").classes("grid lg:grid-cols-[minmax(0,17rem)_minmax(0,1fr)] gap-4 lg:gap-6 w-full"):
        step_list(wizard)
        with ui.column().classes("tunery-card p-4 md:p-6 gap-4 w-full min-w-0"):
            progress(wizard)
            parts.section(t(f"create.step_{step}")).classes("!mt-0")
            ui.label(t(f"create.about_{step}")).classes("quiet max-w-prose")
            await BUILDERS[step](wizard)
            if step != "review":
                way_on(wizard)
    parts.every(POLL_SECONDS, wizard.look_again)


async def _opened(visitor: Visitor, draft: Draft) -> Wizard:
    """A checkpoint may be named by its id: from here on it has its name."""
    found = await findings.look(visitor, draft)
    wizard = Wizard(visitor, draft, found)
    if found.target is not None and found.target.name != draft.model:
        wizard.remember(draft.choosing(model=found.target.name))
    return wizard


def _region(visitor: Visitor) -> None:
    try:
        visitor.rooms.accounts.refuse_without_tuning(visitor.account)
    except InvalidRequest as error:
        with ui.row().classes("tunery-card p-3 items-center gap-3 w-full no-wrap").props("role=alert"):
            ui.icon("block", size="1.5rem", color="negative").props("aria-hidden=true")
            ui.label(error.message).classes("break-words min-w-0")
