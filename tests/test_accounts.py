"""Accounts, their keys and the groups they lie in: what is unique, what can change, and what goes with an account."""

from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.test_queue import add_job
from tunery import queue
from tunery.accounts import Accounts, Wanted
from tunery.errors import Conflict, InvalidRequest, LocalAuthDisabled, NotFound, QuotaExceeded, Unauthorized
from tunery.files import Files
from tunery.groups import Groups
from tunery.imports import Imports, NewImport
from tunery.jobs import add_event
from tunery.records import Account
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.tables import accounts as table
from tunery.store.tables import checkpoints, files, models, parts, schema, uploads


@pytest.fixture
def accounts(store: Store, settings: Settings) -> Accounts:
    accounts = Accounts(store, settings)
    accounts.first()
    return accounts


def make(accounts: Accounts, name: str, **wanted: object) -> Account:
    first = accounts.first()
    given = Wanted(**{"location": "local", **wanted})  # type: ignore[arg-type]
    return accounts.put(first.subscription_id, first.resource_group, name, given, by="tests")[0]


def test_both_keys_open_the_account_and_nothing_else_does(accounts: Accounts) -> None:
    account, other = accounts.first(), make(accounts, "other")
    first, second = accounts.keys(account)
    assert len({first, second, *accounts.keys(other)}) == 4
    assert accounts.by_key(first) == accounts.by_key(second) == account
    for wrong in ("", "x", first[:-1], first + "0", first.upper() + " ", "\xe4"):
        with pytest.raises(Unauthorized):
            accounts.by_key(wrong)


def test_keys_survive_a_restart_and_differ_between_homes(
    accounts: Accounts, store: Store, settings: Settings, tmp_path: Path
) -> None:
    keys = accounts.keys(accounts.first())
    assert Accounts(store, settings).keys(accounts.first()) == keys
    other = msgspec.structs.replace(settings, home=tmp_path / "other")
    other.home.mkdir()
    assert Accounts(store, other).keys(accounts.first()) != keys


def test_keys_of_before_generations_were_random_go_on(accounts: Accounts, store: Store) -> None:
    old = msgspec.structs.replace(accounts.first(), key_generations=(1, 1))
    values = accounts._key_columns(old.name, old.key_generations)
    with store.database.begin() as connection:
        connection.execute(sa.update(table).values(values))
    assert accounts.by_key(accounts.keys(old)[1]) == old


def test_the_database_holds_no_key(accounts: Accounts, store: Store) -> None:
    with store.database.read() as connection:
        stored = str(connection.execute(sa.select(table)).all())
    assert not any(key in stored for key in accounts.keys(accounts.first()))


@hypothesis_settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([1, 2]), max_size=6))
def test_a_key_that_was_regenerated_never_opens_again_and_the_other_goes_on(
    accounts: Accounts, numbers: list[int]
) -> None:
    dead: set[str] = set()
    for number in numbers:
        before = accounts.keys(accounts.first())
        after = accounts.regenerate(accounts.first(), number)
        dead.add(before[number - 1])
        assert after[2 - number] == before[2 - number]
        assert all(accounts.by_key(key) == accounts.first() for key in after)
    for key in dead:
        with pytest.raises(Unauthorized):
            accounts.by_key(key)


def test_an_account_made_again_under_its_old_name_takes_no_old_key(accounts: Accounts) -> None:
    account = make(accounts, "again")
    old = accounts.keys(account)
    accounts.delete(account)
    assert not set(old) & set(accounts.keys(make(accounts, "again")))
    for key in old:
        with pytest.raises(Unauthorized):
            accounts.by_key(key)


def test_an_account_with_local_auth_disabled_takes_and_shows_no_key(accounts: Accounts) -> None:
    account = make(accounts, "closed")
    key = accounts.keys(account)[0]
    closed = accounts.patch(account, Wanted(disable_local_auth=True))
    with pytest.raises(LocalAuthDisabled):
        accounts.by_key(key)
    for ask in (lambda: accounts.keys(closed), lambda: accounts.regenerate(closed, 1)):
        with pytest.raises(InvalidRequest, match="disableLocalAuth"):
            ask()
    assert accounts.by_key(accounts.keys(accounts.patch(closed, Wanted(disable_local_auth=False)))[0]).name == "closed"


@pytest.mark.parametrize(("name", "sub_domain"), [("uno", None), ("three", "UNO")])
def test_a_name_or_sub_domain_is_one_account_s_in_any_case(
    accounts: Accounts, name: str, sub_domain: str | None
) -> None:
    one = make(accounts, "One", sub_domain="Uno")
    with pytest.raises(Conflict, match="another account"):
        make(accounts, name, sub_domain=sub_domain)
    assert accounts.by_sub_domain("UNO") == one


def test_a_put_that_repeats_replaces_tags_and_settings_and_keeps_keys(accounts: Accounts) -> None:
    account = make(accounts, "put", tags={"a": "b"}, disable_local_auth=True)
    again = make(accounts, "PUT", location="Local")
    assert (again.id, again.name, again.tags, again.disable_local_auth) == (account.id, "put", {}, False)
    assert again.key_generations == account.key_generations


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"location": "swedencentral"}, "can't move"),
        ({"location": "atlantis"}, "isn't offered"),
        ({"sub_domain": "another"}, "can't be changed"),
        ({"kind": "Face"}, "isn't offered"),
        ({"sku": "F0"}, "isn't offered"),
    ],
)
def test_what_an_account_can_t_become_is_refused(accounts: Accounts, change: dict, refusal: str) -> None:
    make(accounts, "fixed")
    with pytest.raises((Conflict, InvalidRequest), match=refusal):
        make(accounts, "fixed", **change)


@pytest.mark.parametrize("name", ["a", "-a", "a b", "a" * 65, "a/b", "ä1", ""])
def test_a_name_has_azure_s_alphabet(accounts: Accounts, name: str) -> None:
    with pytest.raises(InvalidRequest):
        make(accounts, name)


def test_an_account_needs_a_group_and_a_region_holds_so_many(store: Store, settings: Settings) -> None:
    accounts = Accounts(store, msgspec.structs.replace(settings, max_accounts=2))
    first = accounts.first()
    with pytest.raises(NotFound):
        accounts.put(first.subscription_id, "nowhere", "second", Wanted(location="local"), by="tests")
    make(accounts, "second")
    with pytest.raises(QuotaExceeded):
        make(accounts, "third")
    make(accounts, "third", location="Sweden Central")


def test_a_name_in_another_group_is_taken(accounts: Accounts, store: Store, settings: Settings) -> None:
    first = accounts.first()
    Groups(store, settings).put(first.subscription_id, "more", location="local", tags=None)
    with pytest.raises(Conflict, match="another account"):
        accounts.put(first.subscription_id, "more", first.name, Wanted(location="local"), by="tests")


def test_deleting_an_account_takes_everything_of_it_and_nothing_of_others(accounts: Accounts, store: Store) -> None:
    gone, stays = make(accounts, "gone"), make(accounts, "stays")
    fill(store, gone, "1")
    fill(store, stays, "2")
    with pytest.raises(Conflict, match="unfinished job"):
        accounts.delete(gone)
    finish(store)
    accounts.delete(gone)
    assert accounts.by_name("gone") is None
    assert rows(store) == {"accounts": 2, "resource_groups": 1} | dict.fromkeys(
        ("files", "uploads", "upload_parts", "jobs", "events", "checkpoints", "models"), 1
    )
    assert not store.blobs.exists("files/1")
    assert store.blobs.exists("files/2")
    assert store.blobs.exists("adapters/shared/x")


def test_an_account_goes_with_an_import_that_waits(accounts: Accounts, store: Store, settings: Settings) -> None:
    gone = make(accounts, "gone")
    wanted = NewImport(purpose="fine-tune", filename="a", content_url="https://nowhere.invalid/a")
    imports = Imports(store, settings, Files(store, settings))
    imports.create(gone.id, wanted)
    accounts.delete(gone)
    assert imports.claim() is None


def test_the_only_account_stays(accounts: Accounts) -> None:
    with pytest.raises(Conflict, match="only one"):
        accounts.delete(accounts.first())


def test_a_group_with_accounts_stays_and_an_empty_one_goes(
    accounts: Accounts, store: Store, settings: Settings
) -> None:
    groups, first = Groups(store, settings), accounts.first()
    groups.put(first.subscription_id, "Empty", location="local", tags={"a": "b"})
    with pytest.raises(Conflict):
        groups.delete(first.subscription_id, first.resource_group.upper())
    groups.delete(first.subscription_id, "empty")
    with pytest.raises(NotFound):
        groups.get(first.subscription_id, "Empty")


def test_subscriptions_are_those_in_use_and_those_of_the_settings(store: Store, settings: Settings) -> None:
    known = msgspec.structs.replace(settings, subscriptions=("ABC", "def"))
    first = Accounts(store, known).first()
    groups = Groups(store, known)
    groups.put("Def", "g", location="local", tags=None)
    assert groups.subscriptions() == [first.subscription_id, "def", "abc"]


def fill(store: Store, account: Account, tail: str) -> None:
    """A row in every table that an account has, and blobs."""
    mine = {"account_id": account.id, "created_at": 0}
    for key in (f"files/{tail}", f"parts/{tail}", "adapters/shared/x"):
        with store.blobs.write(key) as stream:
            stream.write(b"x")
    job = add_job(store, account.id, int(tail))
    upload = {"id": tail, "purpose": "fine-tune", "filename": "f", "bytes": 1}
    rows = [
        (files, {**upload, **mine, "blob": f"files/{tail}", "status": "processed"}),
        (uploads, {**upload, **mine, "mime_type": "x", "expires_at": 0, "status": "pending"}),
        (parts, {"id": tail, "upload_id": tail, "bytes": 1, "blob": f"parts/{tail}", "created_at": 0}),
        (checkpoints, {**mine, "id": tail, "job_id": job, "step": 1, "name": "m", "adapter": "shared", "metrics": {}}),
        (models, {**mine, "name": "m", "base": "b", "parent": "b", "job_id": job, "adapter": "shared"}),
    ]
    with store.database.begin() as connection:
        for table, row in rows:
            connection.execute(sa.insert(table).values(row))
        add_event(connection, store, job, key="enqueued", message="Job enqueued.")


def finish(store: Store) -> None:
    while (claimed := queue.claim(store, owner="w", lease_seconds=15, max_running=1)) is not None:
        with queue.holding(store, claimed[1]) as (connection, _):
            connection.execute(sa.text("UPDATE jobs SET status = 'cancelled' WHERE id = :id"), {"id": claimed[0].id})


def rows(store: Store) -> dict[str, int]:
    with store.database.read() as connection:
        counted = {
            table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for table in schema.sorted_tables
        }
    return {name: count for name, count in counted.items() if count}
