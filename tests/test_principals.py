"""Principals, their secrets and roles as rows: what is kept, what is refused, and when the door stays shut."""

from dataclasses import replace
from itertools import chain, repeat

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fake_training import FakeClock
from tunery import roles
from tunery.errors import Conflict, InvalidRequest, NotFound, SignInRefused, SignInThrottled
from tunery.principals import FREE_FAILURES, LONGEST_WAIT, Principals
from tunery.records import Principal, PrincipalKind
from tunery.roles import OWNER, USAGES_READER
from tunery.store import Store
from tunery.store.tables import principals as table

USER, APPLICATION = PrincipalKind.USER, PrincipalKind.APPLICATION
SUBSCRIPTION = "/subscriptions/00000000-0000-0000-0000-000000000001"


@pytest.fixture
def principals(store: Store) -> Principals:
    return Principals(store)


@pytest.fixture
def robot(principals: Principals) -> Principal:
    return principals.add("robot", APPLICATION)


def wrong(principals: Principals, name: str) -> None:
    with pytest.raises(SignInRefused):
        principals.prove(name, "wrong", APPLICATION)


def test_the_right_secret_proves_a_principal_by_id_and_by_name(principals: Principals, robot: Principal) -> None:
    secret = principals.set_secret(robot)
    assert principals.prove(robot.id, secret, APPLICATION).id == robot.id
    assert principals.prove("Robot", secret, APPLICATION).id == robot.id


def test_a_wrong_secret_an_unknown_name_and_a_wrong_kind_are_refused_alike(
    principals: Principals, robot: Principal
) -> None:
    secret = principals.set_secret(robot)
    said = set()
    for name, given_secret, kind in (
        ("robot", "wrong", APPLICATION),
        ("nobody", secret, APPLICATION),
        ("robot", secret, USER),
    ):
        with pytest.raises(SignInRefused) as refused:
            principals.prove(name, given_secret, kind)
        said.add(refused.value.message)
    assert len(said) == 1


def test_the_database_holds_argon2_and_no_secret(principals: Principals, robot: Principal, store: Store) -> None:
    secret = principals.set_secret(robot)
    with store.database.read() as connection:
        stored = str(connection.execute(sa.select(table)).all())
    assert "$argon2id$" in stored
    assert secret not in stored


def test_a_new_secret_ends_the_old_one(principals: Principals, robot: Principal) -> None:
    old = principals.set_secret(robot)
    principals.set_secret(robot, "a new password")
    assert principals.prove("robot", "a new password", APPLICATION)
    with pytest.raises(SignInRefused):
        principals.prove("robot", old, APPLICATION)


def test_too_many_wrong_secrets_cost_a_wait_even_with_the_right_one(
    principals: Principals, robot: Principal, clock: FakeClock
) -> None:
    secret = principals.set_secret(robot)
    for _ in range(FREE_FAILURES):
        wrong(principals, "robot")
    with pytest.raises(SignInThrottled) as throttled:
        principals.prove("robot", secret, APPLICATION)
    clock.advance(1)
    with pytest.raises(SignInThrottled):  # a lock that is set late in a second holds for more than what is left of it
        principals.prove("robot", secret, APPLICATION)
    clock.advance(throttled.value.retry_after - 1)
    assert principals.prove("robot", secret, APPLICATION)
    wrong(principals, "robot")  # counted from nought again


def test_the_wait_is_told_from_one_look_at_the_clock(principals: Principals, robot: Principal, store: Store) -> None:
    secret = principals.set_secret(robot)
    for _ in range(FREE_FAILURES):
        wrong(principals, "robot")
    end = principals.get("robot").locked_until
    moments = chain([end - 1], repeat(end))
    with pytest.raises(SignInThrottled) as throttled:
        Principals(replace(store, clock=lambda: next(moments))).prove("robot", secret, APPLICATION)
    assert throttled.value.retry_after == 1


def test_waits_double_up_to_a_limit_and_survive_a_restart(robot: Principal, store: Store, clock: FakeClock) -> None:
    waits = []
    Principals(store).set_secret(robot)
    for _ in range(FREE_FAILURES + 8):
        fresh = Principals(store)
        wrong(fresh, "robot")
        until = fresh.get("robot").locked_until
        waits.append(max(0, until - int(clock())))
        clock.advance(waits[-1])
    assert waits[: FREE_FAILURES - 1] == [0] * (FREE_FAILURES - 1)
    assert waits[FREE_FAILURES - 1 :] == [2, 4, 8, 16, 32, LONGEST_WAIT, LONGEST_WAIT, LONGEST_WAIT, LONGEST_WAIT]


def test_names_and_object_ids_are_taken_once(principals: Principals, robot: Principal) -> None:
    for name, object_id in (("ROBOT", None), ("other", robot.id)):
        with pytest.raises(Conflict):
            principals.add(name, USER, object_id=object_id)
    for bad in ("", "  ", "a\nb", "x" * 257):
        with pytest.raises(InvalidRequest):
            principals.add(bad, USER)


def test_who_signs_in_elsewhere_has_no_secret_here(principals: Principals) -> None:
    guest = principals.add("guest", USER, issuer="https://issuer.example", object_id="oid-1")
    with pytest.raises(InvalidRequest):
        principals.set_secret(guest)
    with pytest.raises(SignInRefused):
        principals.prove("guest", "", USER)
    assert principals.known("oid-1", "") is None
    assert principals.known("oid-1", "https://issuer.example") is not None


def test_a_removed_principal_takes_its_roles_along(principals: Principals, robot: Principal) -> None:
    principals.assign(robot, OWNER, SUBSCRIPTION, by="tests")
    principals.remove(robot)
    assert principals.assignments() == []
    with pytest.raises(NotFound):
        principals.get("robot")


def test_a_role_is_held_once_in_any_spelling_and_can_be_taken_back(principals: Principals, robot: Principal) -> None:
    first = principals.assign(robot, "owner", SUBSCRIPTION.upper() + "/", by="tests")
    assert principals.assign(robot, OWNER, SUBSCRIPTION, by="others") == first
    assert (first.role, first.scope) == (OWNER, SUBSCRIPTION)
    principals.unassign(robot, "OWNER", SUBSCRIPTION)
    with pytest.raises(NotFound):
        principals.unassign(robot, OWNER, SUBSCRIPTION)


@pytest.mark.parametrize(
    "scope", ["x", "/subscriptions", "/subscriptions/s/other/x", "/subscriptions/s/resourceGroups"]
)
def test_what_is_no_scope_is_refused(principals: Principals, robot: Principal, scope: str) -> None:
    with pytest.raises(InvalidRequest):
        principals.assign(robot, OWNER, scope, by="tests")


def test_usages_are_read_for_a_whole_subscription_only(principals: Principals, robot: Principal) -> None:
    principals.assign(robot, USAGES_READER, SUBSCRIPTION, by="tests")
    with pytest.raises(InvalidRequest, match="whole subscription"):
        principals.assign(robot, USAGES_READER, f"{SUBSCRIPTION}/resourceGroups/g", by="tests")


SEGMENTS = st.lists(st.sampled_from(["a", "ab", "b"]), max_size=4)


@settings(max_examples=200)
@given(SEGMENTS, SEGMENTS)
def test_a_scope_covers_exactly_what_starts_with_its_segments(outer: list[str], inner: list[str]) -> None:
    joined = ["".join(f"/{segment}" for segment in segments) for segments in (outer, inner)]
    assert roles.covers(*joined) == (inner[: len(outer)] == outer)
