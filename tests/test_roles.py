"""The table of rights: every route has its row, asks for it at the one place, and nothing passes without one."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute

from tunery import api, roles
from tunery.api.control.scope import control_plane, signed_in
from tunery.api.rights import PREFIX
from tunery.api.wire import data_plane
from tunery.errors import Forbidden, PermissionDenied
from tunery.records import Account, Assignment
from tunery.roles import ACTIONS, OPEN, OWNER, ROLES, Caller


def account(number: int, name: str) -> Account:
    known = {"kind": "OpenAI", "tags": {}, "disable_local_auth": False, "etag": "", "created_by": "tests"}
    place = {"subscription_id": "S-1", "resource_group": "Group", "location": "local", "sub_domain": name}
    return Account(id=number, name=name, created_at=0, updated_at=0, key_generations=(1, 1), **place, **known)


HERE, SIBLING = account(1, "here"), account(2, "here2")
READ_FILES, PUT = "GET /files", f"PUT {roles.ACCOUNT}/deployments/{{deployment}}"


def routes() -> Iterator[tuple[str, APIRoute]]:
    for found in pkgutil.walk_packages(api.__path__, "tunery.api."):
        router = getattr(importlib.import_module(found.name), "router", None)
        for route in () if router is None else router.routes:
            if isinstance(route, APIRoute):
                for method in route.methods:
                    yield f"{method} {PREFIX.sub('', route.path_format)}", route


def asked(dependant: Any) -> Iterator[Any]:
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from asked(dependency)


ROUTES = dict(routes())


def holder(role: str, scope: str) -> Caller:
    held = Assignment(id="a", principal_id="p", role=role, scope=scope.lower(), created_at=0, created_by="tests")
    return Caller(id="p", name="somebody", kind="User", assignments=(held,))


def test_the_table_has_exactly_the_operations_that_are_served() -> None:
    assert set(ROUTES) == set(ACTIONS) | OPEN
    assert not set(ACTIONS) & OPEN


@pytest.mark.parametrize("operation", sorted(ACTIONS))
def test_every_operation_of_the_table_is_asked_for_at_the_one_place(operation: str) -> None:
    assert {data_plane, control_plane, signed_in} & set(asked(ROUTES[operation].dependant))


def test_only_resource_groups_are_the_owner_s_alone() -> None:
    lesser = [role for role in ROLES if role != OWNER]
    ungranted = {action for action in ACTIONS.values() if not any(roles.grants(role, action) for role in lesser)}
    assert ungranted == {f"{roles.GROUPS}/write", f"{roles.GROUPS}/delete"}


def test_an_operation_without_a_row_is_refused_to_owners_and_keys() -> None:
    key = Caller(name="key", kind="Key", account=HERE)
    for caller in (holder(OWNER, ""), key):
        with pytest.raises(Forbidden, match="no row"):
            roles.require(caller, "GET /forgotten", HERE)


def test_a_key_does_everything_on_its_account_s_data_plane_and_nothing_else() -> None:
    key = Caller(name="key", kind="Key", account=HERE)
    for operation, action in ACTIONS.items():
        assert roles.may(key, operation, HERE) == roles.is_data_action(action)
        assert not roles.may(key, operation, SIBLING)
        assert not roles.may(key, operation, "/subscriptions/S-1")


@pytest.mark.parametrize(
    ("scope", "here", "sibling"),
    [
        ("", True, True),
        ("/subscriptions/s-1", True, True),
        ("/subscriptions/s-1/resourcegroups/group", True, True),
        (HERE.arm_id, True, False),
        ("/subscriptions/s-1/resourcegroups/gro", False, False),
        ("/subscriptions/s-2", False, False),
    ],
)
def test_a_role_reaches_its_scope_and_what_lies_below(scope: str, here: bool, sibling: bool) -> None:
    caller = holder(OWNER, scope)
    assert [roles.may(caller, PUT, account) for account in (HERE, SIBLING)] == [here, sibling]


def test_a_refusal_names_who_which_action_and_what() -> None:
    nobody = Caller(id="oid-7", name="somebody", kind="User")
    for operation, kind in ((READ_FILES, PermissionDenied), (PUT, Forbidden)):
        with pytest.raises(kind) as refused:
            roles.require(nobody, operation, HERE)
        said = refused.value.message
        assert all(part in said for part in ("oid-7", ACTIONS[operation]))
        assert (operation if kind is PermissionDenied else HERE.arm_id) in said


def test_reading_and_asking_leave_no_audit_row_and_everything_else_does() -> None:
    quiet = {operation for operation in ACTIONS if not roles.changes(operation)}
    assert {operation for operation in ACTIONS if operation.startswith(("GET ", "HEAD "))} <= quiet
    assert {operation for operation in quiet if not operation.startswith(("GET ", "HEAD "))} == {
        "POST /fine_tuning/jobs/{job_id}/events",
        "POST /fine_tuning/estimate",
        "POST /fine_tuning/recipe",
        "POST /chat/completions",
        "POST /deployments/{deployment}/chat/completions",
        "POST /completions",
        "POST /deployments/{deployment}/completions",
    }
