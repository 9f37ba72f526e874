"""Pictures of every page, light and dark, wide and narrow: python -m tests.studio.screenshots [NAME ...]

They are for looking at before a change of a page is committed, and for the documents. Each page is also looked at by
axe and measured for overflow; what was found is printed, and the command fails.
"""

import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from tests.studio.browsing import Browsing, chromium
from tests.studio.faults import faults
from tests.studio.furnished import Place, folder, furnish
from tests.studio.serving import studio_service

SIZES = {"wide": (1280, 860), "narrow": (390, 844)}
TALLEST = 2200
COLOURS = 96


def main(names: list[str]) -> int:
    found: list[str] = []
    with tempfile.TemporaryDirectory() as home, studio_service(Path(home) / "home", account="northwind") as service:
        places = [place for place in furnish(service) if not names or place.name in names]
        with chromium() as browser:
            browsing = Browsing(browser, service)
            browsing.complaints.expect("status of 404")
            for colours in ("light", "dark"):
                for size in SIZES:
                    found += shoot(browsing, places, colours, size)
            found += browsing.complaints.unexpected()
            browsing.close()
    print("\n".join(found) or "no faults")
    return 1 if found else 0


def shoot(browsing: Browsing, places: list[Place], colours: str, size: str) -> Iterator[str]:
    """Write a picture of each place; the faults it has."""
    for place in places:
        page = browsing.window(account=place.account, signed_in=place.signed_in, colours=colours, size=SIZES[size])
        page.goto(place.path)
        settle(page)
        if place.question:
            ask(page, place.question)
        name = f"{place.name}-{colours}" + ("" if size == "wide" else "-narrow")
        keep(page, folder() / f"{name}.png")
        yield from (f"{name}: {fault}" for fault in faults(page))
        page.context.close()


def settle(page: Page) -> None:
    """Until the page is built, its socket is up and its charts are drawn."""
    page.get_by_role("heading", level=1).wait_for()
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1200)


def ask(page: Page, question: str) -> None:
    page.get_by_label("Message", exact=True).fill(question)
    page.get_by_label("Message", exact=True).press("Control+Enter")
    page.get_by_text("completion tokens").nth(1).wait_for()


def keep(page: Page, path: Path) -> None:
    """As a PNG of few colours; long pages are cut."""
    size = page.viewport_size
    assert size is not None
    height = max(size["height"], min(page.evaluate("document.documentElement.scrollHeight"), TALLEST))
    page.set_viewport_size({"width": size["width"], "height": height})
    raw = page.screenshot()
    picture = Image.open(io.BytesIO(raw)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
