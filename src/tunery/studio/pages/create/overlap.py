"""Examples that stand in both files: said, because the validation loss is no measure then."""

import anyio
from nicegui import ui

from tunery.errors import TooManyRequests, TuneryError
from tunery.examples import Pairs
from tunery.studio.pages.create.findings import unfit
from tunery.studio.pages.create.wizard import Wizard
from tunery.studio.texts import shown_number, t


def overlap(wizard: Wizard) -> None:
    """Compared in the background, once for each pair of files; holds nothing."""
    place = ui.column().classes("w-full").props("aria-live=polite")
    compared = ("", "")

    async def compare() -> None:
        try:
            found = await _found(wizard, *compared)
        except TuneryError:
            return
        if found.count and compared == (wizard.draft.training, wizard.draft.validation):
            with place:
                _warning(wizard, found)

    def show() -> None:
        nonlocal compared
        found = wizard.found
        pair = (wizard.draft.training, wizard.draft.validation)
        if pair == compared:
            return
        place.clear()
        ready = [
            file is not None and unfit(file, formats) is None
            for file, formats in ((found.training, found.formats), (found.validation, found.validation_formats))
        ]
        if all(ready):
            compared = pair
            with place:
                ui.timer(0.1, compare, once=True)

    wizard.on_change(show)


async def _found(wizard: Wizard, training: str, validation: str) -> Pairs:
    visitor = wizard.visitor
    compare = visitor.rooms.inspections.overlap
    while True:
        try:
            return await visitor.do("GET /files/{file_id}/overlap", compare, visitor.account.id, training, validation)
        except TooManyRequests as error:
            await anyio.sleep(error.retry_after)


def _warning(wizard: Wizard, found: Pairs) -> None:
    examples = wizard.found.validation.examples if wizard.found.validation else 0
    training, validation = found.lines[0]
    with ui.row().classes("w-full items-start gap-2 no-wrap").props("role=status"):
        ui.icon("warning", size="1.4rem", color="warning").props("aria-hidden=true")
        ui.label(
            t(
                "create.overlap",
                count=shown_number(found.count),
                all=shown_number(examples or 0),
                training=shown_number(training),
                validation=shown_number(validation),
            )
        ).classes("break-words min-w-0")
