"""What is wrong with a page as it stands: axe's serious findings, and anything wider than the window."""

from collections.abc import Iterator

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

SERIOUS = ("serious", "critical")
OVERFLOW = """() => {
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= wide) return [];
  return [...document.body.querySelectorAll('*')]
    .filter(one => one.getBoundingClientRect().right > wide + 1)
    .slice(0, 3).map(one => one.outerHTML.slice(0, 160));
}"""


# What fades in is hard to read while it does.
ENDED = """() => Promise.allSettled(
  document.getAnimations().filter(one => isFinite(one.effect.getComputedTiming().endTime)).map(one => one.finished))"""


def faults(page: Page) -> Iterator[str]:
    page.evaluate(ENDED)
    for outer in page.evaluate(OVERFLOW):
        yield f"wider than the window: {outer}"
    for violation in Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]:
        if violation["impact"] in SERIOUS:
            for node in violation["nodes"][:3]:
                yield f"{violation['id']}: {violation['help']}: {node['html'][:200]} {node['failureSummary'][:300]}"
