"""Who a cookie stands for, and when it stops standing for anybody."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.fake_training import FakeClock
from tunery import wiring
from tunery.errors import SignInRefused, Unauthorized
from tunery.records import PrincipalKind
from tunery.rooms import Services
from tunery.settings import Settings
from tunery.studio.sessions import LINK_SECONDS, Sessions

USER = "Cognitive Services OpenAI User"


@pytest.fixture
def rooms(settings: Settings) -> Iterator[Services]:
    opened = wiring.services(settings)
    yield opened
    opened.close()


@pytest.fixture
def sessions(rooms: Services) -> Sessions:
    return Sessions(rooms)


def known_user(rooms: Services, *, role: str | None = USER) -> None:
    person = rooms.access.principals.add("ada@example.org", PrincipalKind.USER)
    rooms.access.principals.set_secret(person, "analytical")
    if role:
        rooms.access.principals.assign(person, role, rooms.accounts.first().arm_id, by="test")


def test_a_key_signs_in_to_its_account_alone(rooms: Services, sessions: Sessions) -> None:
    account = rooms.accounts.first()
    caller, looked_at = sessions.caller(sessions.by_key(rooms.accounts.keys(account)[1]))
    assert (caller.account, looked_at, sessions.accounts(caller)) == (account, account, [account])


def test_a_regenerated_key_ends_its_sessions_and_the_other_key_s_go_on(rooms: Services, sessions: Sessions) -> None:
    account = rooms.accounts.first()
    first, second = (sessions.by_key(key) for key in rooms.accounts.keys(account))
    rooms.accounts.regenerate(account, 1)
    with pytest.raises(Unauthorized):
        sessions.caller(first)
    assert sessions.caller(second)


def test_a_password_signs_in_with_the_roles_of_now(rooms: Services, sessions: Sessions) -> None:
    known_user(rooms)
    cookie = sessions.by_password("ada@example.org", "analytical")
    caller, account = sessions.caller(cookie)
    assert [one.role for one in caller.assignments] == [USER]
    rooms.access.principals.unassign(rooms.access.principals.get("ada@example.org"), USER, account.arm_id)
    with pytest.raises(SignInRefused, match="holds no role"):
        sessions.caller(cookie)


def test_a_new_password_ends_the_sessions_of_the_old_one(rooms: Services, sessions: Sessions) -> None:
    known_user(rooms)
    cookie = sessions.by_password("ada@example.org", "analytical")
    rooms.access.principals.set_secret(rooms.access.principals.get("ada@example.org"), "difference")
    with pytest.raises(Unauthorized):
        sessions.caller(cookie)


def test_a_removed_principal_is_out_at_once(rooms: Services, sessions: Sessions) -> None:
    known_user(rooms)
    cookie = sessions.by_password("ada@example.org", "analytical")
    rooms.access.principals.remove(rooms.access.principals.get("ada@example.org"))
    with pytest.raises(Unauthorized):
        sessions.caller(cookie)


def test_a_wrong_password_and_an_unknown_name_are_refused_alike(rooms: Services, sessions: Sessions) -> None:
    known_user(rooms)
    refusals = set()
    for name in ("ada@example.org", "nobody"):
        with pytest.raises(SignInRefused) as refused:
            sessions.by_password(name, "wrong")
        refusals.add(refused.value.message)
    assert len(refusals) == 1


def test_the_printed_link_opens_once(sessions: Sessions) -> None:
    link = sessions.link()
    caller, _ = sessions.caller(sessions.by_link(link))
    assert caller.name == "owner"
    with pytest.raises(SignInRefused):
        sessions.by_link(link)


def test_the_printed_link_is_no_cookie(sessions: Sessions) -> None:
    with pytest.raises(Unauthorized):
        sessions.caller(sessions.link())


def test_sign_ins_and_links_end_with_time(rooms: Services, clock: FakeClock) -> None:
    sessions = Sessions(replace(rooms, store=replace(rooms.store, clock=clock)))
    cookie, link = sessions.by_key(rooms.accounts.keys(rooms.accounts.first())[0]), sessions.link()
    clock.advance(LINK_SECONDS)
    with pytest.raises(SignInRefused):
        sessions.by_link(link)
    assert sessions.caller(cookie)
    clock.advance(rooms.settings.studio_session_seconds)
    with pytest.raises(Unauthorized):
        sessions.caller(cookie)


def test_signing_out_ends_the_session_wherever_its_cookie_was_copied(rooms: Services, sessions: Sessions) -> None:
    cookie = sessions.by_key(rooms.accounts.keys(rooms.accounts.first())[0])
    sessions.end(cookie)
    with pytest.raises(Unauthorized):
        sessions.caller(cookie)


def test_the_database_never_holds_a_cookie(rooms: Services, sessions: Sessions) -> None:
    cookie = sessions.by_key(rooms.accounts.keys(rooms.accounts.first())[0])
    stored = b"".join(path.read_bytes() for path in rooms.settings.home.glob("tunery.sqlite*"))
    assert b"studio_sessions" in stored
    assert cookie.encode() not in stored
