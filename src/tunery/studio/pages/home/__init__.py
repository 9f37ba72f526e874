"""The first page: what this is, how far the account is, a demo at one click, how the machine is."""

from tunery.studio import parts
from tunery.studio.deployed import Deployed
from tunery.studio.frame import page
from tunery.studio.pages.home.demo import Demo
from tunery.studio.pages.home.machine import MachineView
from tunery.studio.pages.home.workflow import Workflow
from tunery.studio.texts import t
from tunery.studio.visitor import Visitor

REFRESH_SECONDS = 1.0


@page("/", "frame.home")
async def home(visitor: Visitor, demo: str = "") -> None:
    """`demo=run`: the demo goes on by itself while this page is open."""
    parts.heading(t("home.title"))
    parts.titled("p", t("home.about"), "m-0 max-w-prose")
    deployed = Deployed(visitor)
    # Each by itself: answers of the demo may take a while.
    for refresh in (
        Workflow(deployed).refresh,
        Demo(deployed, runs=demo == "run").refresh,
        MachineView(visitor).refresh,
    ):
        await refresh()
        parts.every(REFRESH_SECONDS, refresh)
