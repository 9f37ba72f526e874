"""The first page."""

from tunery.studio import parts
from tunery.studio.frame import page
from tunery.studio.texts import t
from tunery.studio.visitor import Visitor


@page("/", "frame.home")
async def home(visitor: Visitor) -> None:
    parts.heading(t("frame.home"))
    parts.facts({t("frame.account"): visitor.account.name})
