"""What an account may hold: Azure's numbers, an account's own, and never one more, however many ask at once."""

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from tests.test_queue import add_account, add_job
from tunery import queue, quotas, settings
from tunery.errors import InvalidRequest, QuotaExceeded
from tunery.records import FileStatus, JobStatus
from tunery.settings import Limits, Settings
from tunery.store import Store
from tunery.store.tables import deployments, files, jobs

DEPLOYMENT = dict(
    model="m", model_format="OpenAI", model_version="1", base="b", sku_name="Standard", state="Succeeded", etag="e",
    created_at=0, updated_at=0, created_by="x",
)  # fmt: skip


@pytest.fixture
def account(store: Store) -> int:
    add_account(store, 1)
    return 1


def add_file(store: Store, settings: Settings, name: str, size: int = 1, purpose: str = "fine-tune") -> None:
    row = dict(filename="f", bytes=size, blob=name, created_at=0, status=FileStatus.PROCESSED, purpose=purpose)
    with store.database.begin() as connection:
        quotas.admit_file(connection, settings, 1, size)
        connection.execute(sa.insert(files).values(id=name, account_id=1, **row))


def add_waiting_job(store: Store, settings: Settings, name: str) -> None:
    row = dict(created_at=0, status=JobStatus.PENDING, model="m", base="b", training_file="f", requested={}, seed=1)
    with store.database.begin() as connection:
        quotas.admit_job(connection, settings, 1)
        connection.execute(sa.insert(jobs).values(id=name, account_id=1, **row))


def add_deployment(store: Store, settings: Settings, name: str, *, tuned: bool = True) -> None:
    adapter = {"adapter": "a", "custom_model": name} if tuned else {}
    with store.database.begin() as connection:
        quotas.admit_deployment(connection, settings, 1, tuned=tuned)
        connection.execute(
            sa.insert(deployments).values(account_id=1, name=name, name_folded=name, **adapter, **DEPLOYMENT)
        )


def test_the_defaults_are_azure_s_of_today() -> None:
    assert msgspec.structs.asdict(Limits()) == {
        "max_files": 50,
        "max_total_bytes": 1024**3,
        "max_jobs": 100,
        "max_running_jobs": 1,
        "max_queued_jobs": 20,
        "max_deployments": 32,
        "max_tuned_deployments": 5,
    }
    assert (Settings().tokens_per_unit, Settings().requests_per_unit) == (1000, 6)


@pytest.mark.parametrize(
    ("limit", "add"),
    [
        ("max_files", add_file),
        ("max_jobs", add_waiting_job),
        ("max_queued_jobs", add_waiting_job),
        ("max_deployments", add_deployment),
        ("max_tuned_deployments", add_deployment),
    ],
)
def test_of_many_that_ask_at_once_exactly_the_limit_gets_in(
    store: Store, account: int, limit: str, add: Callable[[Store, Settings, str], None]
) -> None:
    limited = msgspec.convert({limit: 3}, Settings)
    start, refused = threading.Barrier(8), []

    def ask(name: str) -> None:
        start.wait()
        try:
            add(store, limited, name)
        except QuotaExceeded as error:
            refused.append(error)

    threads = [threading.Thread(target=ask, args=(f"n{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 5
    assert all("may have 3 " in error.message and f"raise {limit}" in error.message for error in refused)


def test_bytes_are_counted_over_all_purposes_and_the_sentence_has_the_numbers(store: Store, account: int) -> None:
    limited = Settings(max_total_bytes=100)
    add_file(store, limited, "a", 60, purpose="fine-tune-results")
    with pytest.raises(QuotaExceeded, match="41 bytes don't fit: 60 of the account's 100 are taken"):
        add_file(store, limited, "b", 41)
    add_file(store, limited, "b", 40)


def test_the_results_of_a_job_take_no_place(store: Store, account: int) -> None:
    add_file(store, Settings(), "results", 1000, purpose="fine-tune-results")
    add_job(store, 1, 1)
    with store.database.begin() as connection:
        connection.execute(sa.update(jobs).values(result_file="results"))
        assert quotas.taken_by_files(connection, 1) == (0, 0)


def test_bases_have_more_places_than_tuned_models(store: Store, account: int) -> None:
    limited = Settings(max_deployments=3, max_tuned_deployments=1)
    add_deployment(store, limited, "tuned")
    with pytest.raises(QuotaExceeded, match="1 deployments of tuned models"):
        add_deployment(store, limited, "second")
    add_deployment(store, limited, "base", tuned=False)


def test_an_account_s_own_numbers_come_from_tunery_toml(tmp_path: Path) -> None:
    (tmp_path / "tunery.toml").write_text("max_files = 7\n[account_limits.Big]\nmax_files = 900\n")
    loaded = settings.load(environ={}, home=tmp_path)
    assert loaded.limits("big").max_files == 900
    assert loaded.limits("big").max_jobs == 100
    assert loaded.limits("other").max_files == 7


@pytest.mark.parametrize("wrong", ["max_things = 1", "max_files = -1", "max_files = 'many'"])
def test_an_account_s_limit_that_can_t_be_is_refused_at_start(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "tunery.toml").write_text(f"[account_limits.big]\n{wrong}\n")
    with pytest.raises(InvalidRequest, match="Settings"):
        settings.load(environ={}, home=tmp_path)


def test_an_account_may_have_more_jobs_at_once_than_the_others(store: Store) -> None:
    own = Settings(account_limits={"a2": {"max_running_jobs": 2}})
    for account in (1, 2):
        add_account(store, account)
        for number in range(3):
            add_job(store, account, 10 * account + number)
    with store.database.read() as connection:
        exceptions = quotas.running_limits(connection, own)
    claimed = []
    while found := queue.claim(store, owner="w", lease_seconds=30, max_running=1, exceptions=exceptions):
        claimed.append(found[0].account_id)
    assert sorted(claimed) == [1, 2, 2]


def test_usages_say_what_is_taken_of_every_limit(store: Store, account: int) -> None:
    add_file(store, Settings(), "a", 60)
    add_waiting_job(store, Settings(), "j")
    add_deployment(store, Settings(), "d")
    with store.database.read() as connection:
        found = {usage.name: usage.used for usage in quotas.usages(connection, Settings(), 1)}
    assert found == {
        "max_files": 1,
        "max_total_bytes": 60,
        "max_jobs": 1,
        "max_running_jobs": 0,
        "max_queued_jobs": 1,
        "max_deployments": 1,
        "max_tuned_deployments": 1,
    }
