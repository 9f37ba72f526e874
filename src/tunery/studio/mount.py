"""Studio put into an application. Importing this takes NiceGUI's 0.3 s and 20 MB, which only `tunery serve` needs."""

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from nicegui import core, ui

from tunery.studio import pages
from tunery.studio.frame import MARK, ROOT, no_page
from tunery.studio.guard import Guard
from tunery.studio.rooms import Rooms
from tunery.studio.sessions import Sessions

RECONNECT_SECONDS = 30.0
"""For so long a page whose connection broke may come back and go on where it was."""


def install(application: FastAPI, rooms: Rooms) -> None:
    """Mount Studio; before the application's lifespan begins."""
    pages.load()
    core.app.state.rooms = rooms
    core.app.state.sessions = Sessions(rooms)
    core.app.add_middleware(Guard)
    core.app.add_exception_handler(404, no_page)
    application.add_api_route(ROOT, lambda: RedirectResponse(f"{ROOT}/"), include_in_schema=False)
    ui.run_with(
        application,
        title="Tunery",
        favicon=MARK,
        mount_path=ROOT,
        show_welcome_message=False,
        reconnect_timeout=RECONNECT_SECONDS,
    )
