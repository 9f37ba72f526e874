"""The queue under random death: property tests of queue.py and the job states of records.py."""

import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.fake_training import FakeClock
from tunery import queue
from tunery.queue import Lease, LeaseLost
from tunery.records import HELD, MOVES, TERMINAL, WAITING, Job, JobStatus, may_move
from tunery.store import Store
from tunery.store.blobs import FolderBlobs
from tunery.store.database import Database, many
from tunery.store.tables import accounts, jobs

LEASE = 15.0


def add_account(store: Store, number: int) -> None:
    row = dict(id=number, subscription_id="s", resource_group="g", name=f"a{number}", location="l", created_at=0)
    row |= dict(
        name_folded=f"a{number}",
        sub_domain=f"a{number}",
        key_generations=[1, 1],
        key1_hash=f"{number}x",
        key2_hash=f"{number}y",
    )
    with store.database.begin() as connection:
        connection.execute(sa.insert(accounts).values(row))


def add_job(store: Store, account: int, number: int) -> str:
    row = dict(id=f"ftjob-{number}", account_id=account, created_at=0, status=JobStatus.PENDING, model="m", base="m")
    row |= dict(training_file="f", requested={}, seed=1)
    with store.database.begin() as connection:
        connection.execute(sa.insert(jobs).values(row))
    return str(row["id"])


def all_jobs(store: Store) -> list[Job]:
    with store.database.read() as connection:
        return many(connection, Job, sa.select(jobs).order_by(jobs.c.seq))


def claim(store: Store, owner: str = "w") -> tuple[Job, Lease] | None:
    return queue.claim(store, owner=owner, lease_seconds=LEASE, max_running=1)


@pytest.fixture
def queued(store: Store) -> Store:
    add_account(store, 1)
    return store


def test_jobs_of_an_account_run_in_the_order_they_came(queued: Store) -> None:
    for number in range(3):
        add_job(queued, 1, number)
    ran = []
    while (claimed := claim(queued)) is not None:
        job, lease = claimed
        ran.append(job.id)
        with queue.holding(queued, lease) as (connection, _):
            queue.settle(connection, lease, JobStatus.SUCCEEDED)
    assert ran == ["ftjob-0", "ftjob-1", "ftjob-2"]


def test_a_worker_that_slept_past_its_lease_can_write_nothing(queued: Store, clock: FakeClock) -> None:
    add_job(queued, 1, 1)
    _, old = claim(queued, "sleeper")
    clock.advance(LEASE + 1)
    _, new = claim(queued, "rescuer")
    assert new.token > old.token
    with pytest.raises(LeaseLost), queue.holding(queued, old) as (connection, _):
        queue.settle(connection, old, JobStatus.FAILED)
    assert queue.beat(queued, new) == JobStatus.RUNNING


def test_a_lease_that_ran_out_is_lost_even_if_nobody_took_the_job(queued: Store, clock: FakeClock) -> None:
    add_job(queued, 1, 1)
    _, lease = claim(queued)
    clock.advance(LEASE + 1)
    with pytest.raises(LeaseLost):
        queue.beat(queued, lease)
    assert claim(queued) is not None


def test_a_clock_set_back_does_not_end_a_live_lease(queued: Store, clock: FakeClock) -> None:
    add_job(queued, 1, 1)
    _, lease = claim(queued)
    clock.advance(-3600)
    assert claim(queued) is None
    assert queue.beat(queued, lease) == JobStatus.RUNNING


def test_cancelling_takes_the_job_from_its_worker(queued: Store) -> None:
    add_job(queued, 1, 1)
    _, lease = claim(queued)
    with queued.database.begin() as connection:
        connection.execute(sa.update(jobs).values(status=JobStatus.CANCELLED))
    with pytest.raises(LeaseLost):
        queue.beat(queued, lease)


def test_an_orphan_that_was_asked_to_pause_is_still_asked_to_pause(queued: Store, clock: FakeClock) -> None:
    add_job(queued, 1, 1)
    claim(queued)
    with queued.database.begin() as connection:
        connection.execute(sa.update(jobs).values(status=JobStatus.PAUSING))
    clock.advance(LEASE + 1)
    job, _ = claim(queued)
    assert job.status == JobStatus.PAUSING


def test_a_job_given_back_is_claimed_at_once(queued: Store) -> None:
    add_job(queued, 1, 1)
    _, lease = claim(queued)
    assert claim(queued) is None
    queue.give_back(queued, lease)
    assert claim(queued) is not None


def test_one_account_s_long_job_does_not_hold_up_another_account(store: Store) -> None:
    add_account(store, 1)
    add_account(store, 2)
    add_job(store, 1, 1)
    add_job(store, 1, 2)
    add_job(store, 2, 3)
    first, second = claim(store), claim(store)
    assert first is not None
    assert second is not None
    assert [first[0].id, second[0].id] == ["ftjob-1", "ftjob-3"]
    assert claim(store) is None


def test_no_move_leads_out_of_a_terminal_state() -> None:
    assert all(not MOVES[state] for state in TERMINAL)
    assert set(MOVES) == set(JobStatus)


class QueueMachine(RuleBasedStateMachine):
    """Workers claim, beat, settle, die and wake up again in any order while users cancel, pause and resume."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = FakeClock()
        database = Database(f"sqlite:///{Path(self.folder.name) / 'q.sqlite'}")
        database.migrate()
        self.store = Store(database, FolderBlobs(Path(self.folder.name) / "blobs"), self.clock)
        for account in (1, 2):
            add_account(self.store, account)
        self.count = 0
        self.leases: list[Lease] = []
        self.ended: dict[str, JobStatus] = {}

    def teardown(self) -> None:
        self.store.database.close()
        self.folder.cleanup()

    @precondition(lambda self: self.count < 12)
    @rule(account=st.sampled_from([1, 2]))
    def create(self, account: int) -> None:
        self.count += 1
        add_job(self.store, account, self.count)

    @rule()
    def claim(self) -> None:
        before = all_jobs(self.store)
        claimed = claim(self.store)
        now = self.clock()
        live = {job.account_id for job in before if job.status in HELD and (job.lease_until or 0) >= now}
        free = [job for job in before if job.account_id not in live and (job.status in WAITING or job.status in HELD)]
        if not free:
            assert claimed is None
            return
        assert claimed is not None
        assert claimed[0].id == free[0].id
        self.leases.append(claimed[1])

    @rule(seconds=st.sampled_from([0.5, 5.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), status=st.sampled_from([JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.PAUSED]))
    def settle(self, data: st.DataObject, status: JobStatus) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        current = {job.id: job for job in all_jobs(self.store)}[lease.job_id]
        ours = current.lease_token == lease.token and current.status in HELD
        ours = ours and (current.lease_until or 0) >= self.clock()
        try:
            with queue.holding(self.store, lease) as (connection, held):
                assert ours
                if may_move(held, status):
                    queue.settle(connection, lease, status)
        except LeaseLost:
            assert not ours

    @precondition(lambda self: self.count)
    @rule(data=st.data(), status=st.sampled_from([JobStatus.CANCELLED, JobStatus.PAUSING, JobStatus.RESUMING]))
    def user_asks(self, data: st.DataObject, status: JobStatus) -> None:
        job = data.draw(st.sampled_from(all_jobs(self.store)))
        if may_move(job.status, status):
            with self.store.database.begin() as connection:
                connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(status=status))

    @invariant()
    def terminal_states_never_change(self) -> None:
        for job in all_jobs(self.store):
            if job.id in self.ended:
                assert job.status == self.ended[job.id]
            elif job.status in TERMINAL:
                self.ended[job.id] = job.status

    @invariant()
    def at_most_one_live_job_an_account(self) -> None:
        now = self.clock()
        live = [job.account_id for job in all_jobs(self.store) if job.status in HELD and (job.lease_until or 0) >= now]
        assert len(live) == len(set(live))


QueueMachine.TestCase.settings = hypothesis_settings(max_examples=40, stateful_step_count=40, deadline=None)
TestQueue = QueueMachine.TestCase
