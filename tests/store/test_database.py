"""The schema in code and the one that migrations build are the same; transactions hold what they promise."""

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tests.test_queue import add_account, add_job, all_jobs
from tunery.accounts import Accounts
from tunery.groups import Groups
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.blobs import FolderBlobs
from tunery.store.database import Database
from tunery.store.tables import jobs, schema


def test_migrations_build_the_schema_that_the_code_names(store: Store) -> None:
    with store.database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema) == []


def test_migrating_twice_changes_nothing(store: Store) -> None:
    add_account(store, 1)
    add_job(store, 1, 1)
    store.database.migrate()
    assert len(all_jobs(store)) == 1


def test_a_capacity_of_1_that_nobody_may_have_asked_for_becomes_no_limit(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'old.sqlite'}")
    database.migrate(to="0004")
    with database.begin() as connection:
        connection.execute(sa.text(
            "INSERT INTO accounts (id, subscription_id, resource_group, name, location, created_at, key_generations, "
            "key1_hash, key2_hash) VALUES (1, 's', 'g', 'a', 'l', 0, '[1,1]', 'x', 'y')"
        ))  # fmt: skip
        connection.execute(sa.text(
            "INSERT INTO deployments (account_id, name, name_folded, model, model_format, model_version, base, "
            "sku_name, capacity, state, etag, created_at, updated_at, created_by) SELECT 1, 'd' || value, 'd' || value,"
            " 'm', 'OpenAI', '1', 'm', 'Standard', value, 'Succeeded', 'e', 0, 0, 'x' FROM json_each('[1, 5]')"
        ))  # fmt: skip
    database.migrate()
    with database.read() as connection:
        assert connection.execute(sa.text("SELECT capacity FROM deployments ORDER BY name")).scalars().all() == [
            None,
            5,
        ]
    database.close()


def test_an_error_inside_a_transaction_undoes_all_of_it(store: Store) -> None:
    add_account(store, 1)
    with pytest.raises(RuntimeError), store.database.begin() as connection:
        connection.execute(sa.text("DELETE FROM accounts"))
        raise RuntimeError
    add_job(store, 1, 1)  # its account is still there


def test_writers_wait_for_each_other_instead_of_failing(store: Store) -> None:
    add_account(store, 1)
    add_job(store, 1, 1)

    def raise_step() -> None:
        for _ in range(25):
            with store.database.begin() as connection:
                step = connection.execute(sa.select(jobs.c.step)).scalar_one()
                connection.execute(sa.update(jobs).values(step=step + 1))

    threads = [threading.Thread(target=raise_step) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all_jobs(store)[0].step == 100


def test_sqlite_is_durable_and_keeps_its_references(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    with database.read() as connection:
        pragma = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in
                  ("journal_mode", "synchronous", "foreign_keys")}  # fmt: skip
    assert pragma == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    database.close()


def test_the_account_of_an_older_home_keeps_its_keys_and_gets_a_group(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'tunery.sqlite'}")
    database.migrate(to="0002")
    row = {"id": 1, "subscription_id": "S-1", "resource_group": "Group", "name": "Mine", "location": "local"}
    row |= {"created_at": 7, "key_generations": "[1,1]", "key1_hash": "x", "key2_hash": "y"}
    with database.begin() as connection:
        names = ", ".join(row)
        connection.execute(sa.text(f"INSERT INTO accounts ({names}) VALUES (:{', :'.join(row)})"), row)
    database.migrate()
    store, settings = Store(database, FolderBlobs(tmp_path / "blobs")), Settings(home=tmp_path)
    account = Accounts(store, settings).first()
    assert (account.name, account.sub_domain, account.key_generations) == ("Mine", "mine", (1, 1))
    assert Groups(store, settings).get(account.subscription_id, "group").name == account.resource_group
    database.close()
