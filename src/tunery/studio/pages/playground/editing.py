"""A text in a dialog."""

from nicegui import ui

from tunery.studio import parts
from tunery.studio.texts import t


async def edited(title: str, text: str) -> str | None:
    """The text as it was changed; None: it wasn't. Escape leaves it."""
    with ui.dialog() as dialog, ui.card().classes("w-full max-w-3xl gap-3"):
        dialog.props["aria-label"] = title
        parts.section(title)
        area = ui.textarea(title, value=text).props("outlined autogrow autofocus input-class=max-h-96")
        area.classes("w-full").on("keydown.ctrl.enter.prevent", lambda: dialog.submit(area.value))
        with ui.row().classes("w-full justify-end gap-2"):
            ui.button(t("parts.cancel"), color=None, on_click=lambda: dialog.submit(None)).props("flat no-caps")
            ui.button(t("playground.keep"), color=None, on_click=lambda: dialog.submit(area.value)).props(
                parts.LOOKS["primary"]
            )
    changed = await dialog
    dialog.delete()
    return None if changed is None or changed == text or not changed.strip() else str(changed)
