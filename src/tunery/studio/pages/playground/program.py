"""View code: what is on the screen, as a program."""

from typing import Any

from nicegui import ui

from tunery.studio import parts
from tunery.studio.pages.playground.screen import Screen
from tunery.studio.play import code
from tunery.studio.play.talk import Round, body
from tunery.studio.texts import t

LANGUAGES = {"Python": code.python, "curl": code.curl}


def program_button(screen: Screen) -> None:
    address = ui.context.client.request.base_url

    async def show() -> None:
        bodies = {name: shown_body(screen, number) for number, name in enumerate(screen.shown.talk.panes)}
        _dialog(f"{address.scheme}://{address.netloc}/accounts/{screen.visitor.account.sub_domain}", bodies)

    ui.button(t("playground.code"), icon="code", color=None, on_click=parts.shown(show)).props("flat dense no-caps")


def shown_body(screen: Screen, pane: int) -> dict[str, Any]:
    """What would be sent now; with nothing typed, what the last round was."""
    talk = screen.shown.talk
    if talk.draft.strip() or not talk.rounds:
        return body(talk, Round(prompt=talk.draft), pane)
    return body(talk, talk.rounds[-1], pane)


def _dialog(endpoint: str, bodies: dict[str, dict[str, Any]]) -> None:
    with ui.dialog() as dialog, ui.card().classes("w-full max-w-4xl gap-3"):
        dialog.on("hide", dialog.delete)
        dialog.props["aria-label"] = t("playground.code")
        parts.section(t("playground.code"))
        ui.label(t("playground.code_key", variable=code.KEY)).classes("quiet text-sm")
        for deployment, body in bodies.items():
            target = code.Target(endpoint, deployment)
            if len(bodies) > 1:
                ui.label(deployment).classes("font-medium")
            for language, write in LANGUAGES.items():
                _program(f"{language} · {deployment}" if len(bodies) > 1 else language, write(target, body))
        with ui.row().classes("w-full justify-end"):
            ui.button(t("parts.close"), color=None, on_click=dialog.close).props("flat no-caps")
    dialog.open()


def _program(title: str, text: str) -> None:
    with ui.row().classes("w-full items-center"):
        ui.label(title).classes("text-sm font-medium")
        ui.space()
        copy = ui.button(t("playground.copy"), icon="content_copy", color=None).props("flat dense no-caps")
        copy.props["aria-label"] = t("playground.copy_of", name=title)

        def write() -> None:
            ui.clipboard.write(text)
            parts.note(t("playground.copied"))

        copy.on_click(write)
    with ui.element("pre").classes("tunery-code w-full").props("tabindex=0 role=region") as block:
        block.props["aria-label"] = title
        ui.label(text).classes("whitespace-pre")
