"""Files and uploads: what is kept, what is refused, and that nothing half-done stays behind."""

import errno
import hashlib
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from tests.fake_training import FakeClock
from tests.test_queue import add_account
from tunery.errors import InvalidRequest, NotFound, QuotaExceeded, StorageFull, TooLarge, WrongState
from tunery.files import Files, Outcome, plain_name
from tunery.records import File, FileStatus, JobStatus
from tunery.settings import Settings
from tunery.store import Store
from tunery.store.blobs import FolderBlobs
from tunery.store.tables import accounts, jobs
from tunery.uploads import Uploads

LINE = b'{"messages": [{"role": "user", "content": "q%d"}, {"role": "assistant", "content": "a"}]}\n'


def jsonl(count: int = 12) -> bytes:
    return b"".join(LINE % number for number in range(count))


def preference_jsonl(count: int = 12) -> bytes:
    return b"".join(
        b'{"input": {"messages": [{"role": "user", "content": "quick %d"}]}, "preferred_output": [{"role": "assistant",'
        b' "content": "fox"}], "non_preferred_output": [{"role": "assistant", "content": "dog"}]}\n' % number
        for number in range(count)
    )


@pytest.fixture
def files(store: Store, settings: Settings) -> Files:
    add_account(store, 1)
    add_account(store, 2)
    return Files(store, settings)


@pytest.fixture
def uploads(store: Store, settings: Settings, files: Files) -> Uploads:
    return Uploads(store, settings, files)


def keep(files: Files, content: bytes, *, account: int = 1, name: str = "train.jsonl", **more: object) -> File:
    with files.receive() as incoming:
        incoming.write(content)
    return files.keep(incoming, account_id=account, filename=name, purpose="fine-tune", **more)  # type: ignore[arg-type]


def check(files: Files) -> bool:
    claim = files.claim_check(lease_seconds=30)
    return claim is not None and files.settle_check(claim, files.check(claim))


def blob_count(store: Store, settings: Settings) -> int:
    return sum(path.is_file() for path in (settings.home / "blobs").rglob("*"))


def test_a_good_file_goes_from_pending_to_processed(files: Files) -> None:
    file = keep(files, jsonl())
    assert file.status == FileStatus.PENDING
    assert check(files)
    checked = files.get(1, file.id)
    assert (checked.status, checked.format, checked.examples) == (FileStatus.PROCESSED, "chat", 12)
    assert files.content(checked).read_bytes() == jsonl()


def test_a_faulty_file_ends_as_error_and_every_finding_can_be_read(files: Files) -> None:
    file = keep(files, jsonl() + b"{broken\n" * 150)
    check(files)
    checked = files.get(1, file.id)
    assert checked.status == FileStatus.ERROR
    assert checked.status_details is not None
    assert checked.status_details.startswith("Validation of jsonl file failed:")
    first, more = files.findings(checked, after=0, limit=100)
    rest, end = files.findings(checked, after=100, limit=1000)
    assert more
    assert not end
    errors = [finding.line for finding in (*first, *rest) if finding.level == "error"]
    assert errors == list(range(13, 163))


def test_a_checker_that_dies_leaves_the_file_to_the_next(files: Files, clock: FakeClock) -> None:
    keep(files, jsonl())
    dead = files.claim_check(lease_seconds=30)
    assert dead is not None
    assert files.claim_check(lease_seconds=30) is None
    clock.advance(31)
    assert check(files)
    assert not files.settle_check(dead, Outcome(status=FileStatus.ERROR))
    assert files.get(1, dead.file.id).status == FileStatus.PROCESSED


def test_a_file_over_the_limit_leaves_nothing_behind(store: Store, settings: Settings, files: Files) -> None:
    small = Files(store, msgspec.structs.replace(settings, max_file_bytes=100))
    with pytest.raises(TooLarge), small.receive() as incoming:
        incoming.write(b"x" * 60)
        incoming.write(b"x" * 60)
    assert blob_count(store, settings) == 0


def test_a_full_disk_is_said_and_leaves_nothing_behind(store: Store, settings: Settings, files: Files) -> None:
    with pytest.raises(StorageFull), files.receive() as incoming:
        incoming.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert blob_count(store, settings) == 0


@pytest.mark.parametrize("name", ["", ".", "..", "a/", "C:\\data\\", "a\x00b", "a\nb", "x" * 300])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        plain_name(name)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("C:\\fine-tuning\\training_set.jsonl", "training_set.jsonl"),
        ("../../etc/passwd", "passwd"),
        ("a b.jsonl", "a b.jsonl"),
    ],
)
def test_paths_in_names_are_cut_to_the_name(sent: str, kept: str) -> None:
    assert plain_name(sent) == kept


def test_a_user_s_name_never_becomes_a_path(files: Files, settings: Settings) -> None:
    file = keep(files, jsonl(), name="../../../evil.jsonl")
    assert files.content(file) == settings.home / "blobs" / "files" / file.id


def test_another_account_s_file_is_as_unknown_as_none(files: Files) -> None:
    file = keep(files, jsonl())
    with pytest.raises(NotFound) as foreign:
        files.get(2, file.id)
    with pytest.raises(NotFound) as missing:
        files.get(2, "file-none")
    assert foreign.value.message.replace(file.id, "X") == missing.value.message.replace("file-none", "X")
    with pytest.raises(NotFound):
        files.delete(2, file.id)


def test_pages_follow_each_other_newest_first(files: Files) -> None:
    ids = [keep(files, jsonl(), name=f"{number}.jsonl").id for number in range(5)]
    first, more = files.page(1, limit=2)
    second, _ = files.page(1, limit=2, after=first[-1].id)
    last, end = files.page(1, limit=2, after=second[-1].id)
    assert [file.id for file in (*first, *second, *last)] == ids[::-1]
    assert more
    assert not end


def test_a_file_that_an_unfinished_job_needs_can_t_be_deleted(store: Store, files: Files) -> None:
    file = keep(files, jsonl())
    row = dict(
        id="ftjob-1", account_id=1, created_at=0, status=JobStatus.PENDING, model="m", base="m", requested={}, seed=1
    )
    with store.database.begin() as connection:
        connection.execute(sa.insert(jobs).values(training_file=file.id, **row))
    with pytest.raises(Exception, match="still needs"):
        files.delete(1, file.id)
    with store.database.begin() as connection:
        connection.execute(sa.update(jobs).values(status=JobStatus.SUCCEEDED))
    files.delete(1, file.id)
    assert not files.content(file).exists()


def test_the_number_of_files_is_limited_and_the_refused_one_is_dropped(
    store: Store, settings: Settings, files: Files
) -> None:
    few = Files(store, msgspec.structs.replace(settings, max_files=2))
    for _ in range(2):
        keep(few, jsonl())
    with pytest.raises(QuotaExceeded):
        keep(few, jsonl())
    assert blob_count(store, settings) == 2


def test_a_file_past_its_expiry_goes_by_itself(files: Files, clock: FakeClock) -> None:
    file = keep(files, jsonl(), expires_after=3600)
    assert files.expire() == 0
    clock.advance(3601)
    assert files.expire() == 1
    with pytest.raises(NotFound):
        files.get(1, file.id)


def begin(uploads: Uploads, size: int) -> str:
    return uploads.begin(account_id=1, purpose="fine-tune", filename="big.jsonl", size=size, mime_type="text/plain").id


def add_part(files: Files, uploads: Uploads, upload: str, content: bytes) -> str:
    with files.receive() as incoming:
        incoming.write(content)
    return uploads.keep_part(1, upload, incoming).id


def test_parts_are_joined_in_the_order_asked_for(files: Files, uploads: Uploads) -> None:
    upload = begin(uploads, 6)
    second, first = add_part(files, uploads, upload, b"def"), add_part(files, uploads, upload, b"abc")
    done, file = uploads.complete(1, upload, [first, second], hashlib.md5(b"abcdef").hexdigest())
    assert files.content(file).read_bytes() == b"abcdef"
    assert (done.status, done.file_id) == ("completed", file.id)


def test_a_wrong_md5_or_sum_leaves_the_upload_open(files: Files, uploads: Uploads) -> None:
    upload = begin(uploads, 3)
    part = add_part(files, uploads, upload, b"abc")
    for parts, md5 in (([part], "0" * 32), ([], None), ([part, part], None), (["part_x"], None)):
        with pytest.raises(InvalidRequest):
            uploads.complete(1, upload, parts, md5)
    assert uploads.complete(1, upload, [part], None)[0].status == "completed"


def test_a_closed_upload_takes_no_parts_and_keeps_no_bytes(
    store: Store, settings: Settings, files: Files, uploads: Uploads, clock: FakeClock
) -> None:
    cancelled, expired = begin(uploads, 3), begin(uploads, 3)
    add_part(files, uploads, cancelled, b"abc")
    add_part(files, uploads, expired, b"abc")
    uploads.cancel(1, cancelled)
    clock.advance(settings.upload_seconds)
    uploads.expire()
    assert uploads.get(1, expired).status == "expired"
    for upload in (cancelled, expired):
        with pytest.raises(WrongState):
            add_part(files, uploads, upload, b"abc")
    assert blob_count(store, settings) == 0


def test_no_account_is_stored_with_its_key(store: Store, files: Files) -> None:
    with store.database.read() as connection:
        names = connection.execute(sa.select(accounts)).keys()
    assert not {"key1", "key2"} & set(names)


def test_a_blob_key_can_t_leave_the_folder(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    for key in ("../x", "a/../../x", "/etc/passwd", "a//b", "", "a/b/c/d/e"):
        with pytest.raises(ValueError, match="not a blob key"):
            blobs.path(key)


def test_what_a_killed_process_left_half_written_is_swept_after_a_day(
    settings: Settings, files: Files, clock: FakeClock
) -> None:
    staging = settings.home / "blobs" / ".staging"
    (staging / "dead").write_bytes(b"half")
    clock.now = (staging / "dead").stat().st_mtime
    files.sweep()
    assert (staging / "dead").exists()
    clock.advance(86_401)
    files.sweep()
    assert not (staging / "dead").exists()


def test_files_are_found_by_a_part_of_name_or_id_in_any_case(files: Files) -> None:
    kept = [keep(files, b"x", name=name) for name in ("train-100%.jsonl", "Train-2.jsonl", "other.jsonl")]
    keep(files, b"x", account=2, name="train.jsonl")
    for search, found in (("TRAIN", 2), ("100%", 1), ("%", 1), (kept[2].id, 1), ("none", 0), ("", 3)):
        assert files.count(1, search=search) == len(files.page(1, search=search)[0]) == found, search
    assert [file.filename for file in files.page(1, skip=1, limit=1)[0]] == ["Train-2.jsonl"]
