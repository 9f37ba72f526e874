"""Imports as rows: who may fetch when, what a lost, stopped or deleted fetch leaves, and what the database keeps."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from tests.fake_training import FakeClock
from tests.imports.given import Desk, Origin, serving
from tests.test_queue import add_account, claim
from tests.waiting import PATIENCE, until
from tunery.errors import Conflict, InvalidRequest, NotFound, QuotaExceeded
from tunery.imports import Fetch, NewImport
from tunery.records import File, FileStatus, JobStatus
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.tables import imports, jobs

CONTENT = bytes(range(256)) * 4096
NOWHERE = "https://nowhere.example/a?sig=s3cret"


@pytest.fixture
def desk(store: Store, settings: Settings) -> Desk:
    return Desk(store, settings, lease_seconds=1.0)


@contextmanager
def half_fetched(desk: Desk, origin: Origin) -> Iterator[tuple[File, threading.Thread]]:
    """A fetch that hangs after 300,000 bytes, which are written down."""
    with serving(origin) as port:
        file = desk.ask(f"http://127.0.0.1:{port}/", "assistants")
        held = threading.Thread(target=desk.run)
        held.start()
        until(lambda: desk.files.get(1, file.id).bytes == 300_000)
        yield file, held
        held.join(PATIENCE)
        assert not held.is_alive()


def origin() -> Origin:
    return Origin(CONTENT, cuts=[300_000], hold=threading.Event())


def test_a_fetch_says_how_far_it_is(desk: Desk) -> None:
    slow = origin()
    with half_fetched(desk, slow) as (file, _):
        assert desk.files.get(1, file.id).status == FileStatus.PENDING
        slow.hold.set()
    assert desk.content(desk.files.get(1, file.id)) == CONTENT


def test_a_stopped_worker_s_fetch_goes_on_in_the_next_from_what_is_on_disk(desk: Desk) -> None:
    slow = origin()
    with half_fetched(desk, slow) as (file, held):
        desk.stopping.set()
        held.join(PATIENCE)
        desk.stopping.clear()
        assert desk.run()
    assert desk.content(desk.files.get(1, file.id)) == CONTENT
    assert slow.requests[1]["range"] == "bytes=300000-"
    assert desk.left_over() == []


def test_a_holder_that_slept_past_its_lease_changes_nothing(desk: Desk, clock: FakeClock) -> None:
    slow = origin()
    with half_fetched(desk, slow) as (file, held):
        clock.advance(2)
        assert desk.run()
        assert slow.requests[1]["range"] == "bytes=300000-"
        slow.hold.set()
        held.join(PATIENCE)
    assert desk.content(desk.files.get(1, file.id)) == CONTENT
    assert desk.left_over() == []


def test_an_import_whose_file_was_lost_from_the_disk_begins_again(desk: Desk) -> None:
    slow = origin()
    with half_fetched(desk, slow) as (file, held):
        desk.stopping.set()
        held.join(PATIENCE)
        desk.stopping.clear()
        for path in desk.imports.folder.iterdir():
            path.unlink()
        desk.run()
    assert desk.content(desk.files.get(1, file.id)) == CONTENT
    assert "range" not in slow.requests[1]


def test_deleting_the_file_ends_its_fetch_and_leaves_nothing(desk: Desk) -> None:
    with half_fetched(desk, origin()) as (file, held):
        desk.files.delete(1, file.id)
        held.join(PATIENCE)
    with pytest.raises(NotFound):
        desk.files.get(1, file.id)
    assert desk.left_over() == []


def test_what_was_fetched_of_a_deleted_file_is_swept(desk: Desk) -> None:
    with half_fetched(desk, origin()) as (file, held):
        desk.stopping.set()
        held.join(PATIENCE)
        desk.imports.sweep()
        assert desk.left_over() == [f"{file.id}.1"]
        desk.files.delete(1, file.id)
        desk.imports.sweep()
    assert desk.left_over() == []


def test_a_file_whose_blob_was_written_by_a_dead_claim_gets_one_of_its_own(desk: Desk, store: Store) -> None:
    with serving(Origin(CONTENT)) as port:
        file = desk.ask(f"http://127.0.0.1:{port}/", "assistants")
        dead = desk.imports.claim()
        desk.imports.give_back(dead)
        with store.blobs.write(f"files/{file.id}-1") as stream:
            stream.write(b"of a claim that died before it could settle")
        desk.run()
    assert desk.content(desk.files.get(1, file.id)) == CONTENT
    assert desk.left_over() == []


def test_an_account_has_at_most_its_number_of_fetches_and_doesn_t_hold_up_others(desk: Desk, store: Store) -> None:
    add_account(store, 2)
    mine = [desk.ask(NOWHERE).id for _ in range(3)]
    other = desk.imports.create(2, NewImport(purpose="fine-tune", filename="b", content_url=NOWHERE)).id
    claimed = [desk.imports.claim() for _ in range(4)]
    assert [each and each.file.id for each in claimed] == [*mine[:2], other, None]


def test_a_job_whose_file_is_still_fetched_lets_the_next_one_train(desk: Desk, store: Store) -> None:
    row = dict(account_id=1, created_at=0, status=JobStatus.PENDING, model="m", base="m", requested={}, seed=1)
    fetched = desk.ask(NOWHERE).id
    with store.database.begin() as connection:
        connection.execute(sa.insert(jobs).values(**row, id="ftjob-1", training_file="f", validation_file=fetched))
        connection.execute(sa.insert(jobs).values(**row, id="ftjob-2", training_file="f"))
    assert claim(store)[0].id == "ftjob-2"
    claimed = desk.imports.claim()
    desk.imports.fail(claimed, "unreachable")
    with store.database.begin() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.id == "ftjob-2").values(status=JobStatus.SUCCEEDED))
    assert claim(store)[0].id == "ftjob-1"


def test_the_link_is_forgotten_once_the_fetch_has_ended(desk: Desk, store: Store) -> None:
    desk.ask(NOWHERE)
    desk.imports.fail(desk.imports.claim(), "unreachable")
    with store.database.read() as connection:
        assert connection.execute(sa.select(imports.c.url)).scalar_one() is None


def test_errors_of_the_database_never_quote_a_link(store: Store) -> None:
    with pytest.raises(sa.exc.IntegrityError) as refused, store.database.begin() as connection:
        connection.execute(sa.insert(imports).values(file_id="none", account_id=9, url=NOWHERE))
    assert "s3cret" not in str(refused.value)


def test_one_idempotency_key_makes_one_file_and_refuses_another_body(desk: Desk) -> None:
    made = desk.ask(NOWHERE, key="k").id
    assert desk.ask(NOWHERE, key="k").id == made
    assert desk.ask(NOWHERE).id != made
    with pytest.raises(Conflict):
        desk.ask(NOWHERE + "2", key="k")


def test_equal_requests_at_once_make_one_file(desk: Desk) -> None:
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(desk.ask(NOWHERE, key="k").id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    assert len(desk.files.page(1)[0]) == 1


def test_imports_count_as_files_and_a_refused_one_leaves_no_row(store: Store, settings: Settings) -> None:
    few = Desk(store, settings, max_files=1)
    few.ask(NOWHERE)
    with pytest.raises(QuotaExceeded):
        few.ask(NOWHERE)
    with store.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(imports)).scalar_one() == 1


def test_two_fetches_that_fit_only_one_by_one_don_t_both_stay(store: Store, settings: Settings) -> None:
    desk = Desk(store, settings, max_total_bytes=1_500_000)
    with serving(Origin(CONTENT)) as port:
        files = [desk.ask(f"http://127.0.0.1:{port}/", "assistants") for _ in range(2)]
        fetches = [Fetch(desk.imports, desk.imports.claim(), desk.stopping) for _ in files]
        for fetch in fetches:
            fetch.run()
    assert [desk.files.get(1, file.id).status for file in files] == [FileStatus.PROCESSED, FileStatus.ERROR]
    assert desk.left_over() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("purpose", "fun"),
        ("filename", "folder/"),
        ("filename", "a\x00b"),
        ("content_url", "file:///etc/passwd"),
        ("expires_after", {"seconds": 5}),
        ("expires_after", {"seconds": 3600, "anchor": "now"}),
    ],
)
def test_a_request_that_can_t_be_kept_names_its_field(desk: Desk, field: str, value: object) -> None:
    given = {"url": NOWHERE, "purpose": "fine-tune", field.replace("content_url", "url"): value}
    with pytest.raises(InvalidRequest) as refused:
        desk.ask(**given)
    assert refused.value.param == field
