"""What holds on every page: for everybody who may see it or not, in every colour and width."""

from collections.abc import Iterator

import pytest
import requests
from playwright.sync_api import Browser, Page

from tests import identities
from tests.studio.browsing import Browsing
from tests.studio.faults import faults
from tests.studio.furnished import Place, furnish
from tests.studio.serving import StudioService, studio_service
from tests.waiting import PATIENCE
from tunery import roles
from tunery.settings import DATA_PLANE_AUDIENCE

NEEDS = {
    "/studio/create": "GET /fine_tuning/models",
    "/studio/files": "GET /files",
    "/studio/models": "GET /fine_tuning/jobs",
    "/studio/compare": "GET /fine_tuning/jobs",
    "/studio/deployments": "GET /deployments",
    "/studio/playground": "GET /deployments",
}
"""What a page can't be without, by the start of its path; the others show what the caller may see."""


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StudioService, list[Place]]]:
    with studio_service(tmp_path_factory.mktemp("furnished") / "home") as service:
        yield service, furnish(service)


@pytest.mark.parametrize(
    ("colours", "size"), [("light", (1280, 860)), ("dark", (390, 844))], ids=["light-wide", "dark-narrow"]
)
def test_no_page_is_hard_to_use_or_wider_than_its_window(
    lived_in: tuple[StudioService, list[Place]], browser: Browser, colours: str, size: tuple[int, int]
) -> None:
    service, places = lived_in
    browsing = Browsing(browser, service)
    browsing.complaints.expect("status of 404")
    found = []
    windows: dict[tuple[str, bool], Page] = {}
    for place in places:
        who = (place.account.name, place.signed_in)
        if who not in windows:
            windows[who] = browsing.window(account=place.account, signed_in=who[1], colours=colours, size=size)
        page = windows[who]
        page.goto(place.path)
        page.get_by_role("heading", level=1).wait_for()
        page.wait_for_load_state("networkidle")
        found += [f"{place.name}: {fault}" for fault in faults(page)]
    browsing.close()
    assert not found + browsing.complaints.unexpected(), "\n".join(found)


@pytest.mark.parametrize("role", roles.ROLES)
def test_a_page_opens_for_a_role_exactly_where_the_api_answers_it(
    lived_in: tuple[StudioService, list[Place]], role: str
) -> None:
    service, places = lived_in
    known = identities.make(service, role, scope=f"/subscriptions/{service.account.subscription_id}")
    token = identities.token(service, known, f"{DATA_PLANE_AUDIENCE}/.default")
    cookies = {service.sessions.cookie: service.sessions.by_token(token)}
    for place in places:
        operation = next((needed for start, needed in NEEDS.items() if place.path.startswith(start)), None)
        if operation is None or place.account != service.account or place.name == "file-unknown":
            continue
        answer = requests.get(service.base + place.path, cookies=cookies, allow_redirects=False, timeout=PATIENCE)
        granted = roles.grants(role, roles.ACTIONS[operation])
        assert (answer.status_code == 200) == granted, f"{place.path} for {role}: {answer.status_code}"
