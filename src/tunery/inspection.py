"""What is in a file: token statistics, examples as training reads them, lines of two files, a corrected copy.

All of it is computed by a short process, so that neither torch nor long work comes into this one. Knows no HTTP.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from tunery import recipe
from tunery.bases import BaseModel
from tunery.catalog import BUNDLED, Catalog
from tunery.errors import InspectionFailed, InvalidRequest, TooManyRequests
from tunery.examples import Correction, Pairs, seen
from tunery.files import TRAINING, Files
from tunery.messages import Failed
from tunery.records import File, FileStatus
from tunery.store import Store
from tunery.suitability import PREFERENCE, formats_of, refuse_unchecked, refuse_unfit

AT_ONCE = 2
"""Processes of all accounts together."""
WAIT_SECONDS = 20.0
"""For one of these places."""
SECONDS = 120.0
"""What takes longer is given up."""
REMEMBERED = 64
AnswerT = TypeVar("AnswerT", bound=seen.Answer)


class Inspector(Protocol):
    """The seam to what knows the models' tokens: a short local process."""

    def look(self, question: seen.Question, *, seconds: float) -> seen.Answer | Failed | None:
        """None if it took longer than `seconds`."""
        ...


class Inspections:
    """Looks into files of all accounts; every call names the account it acts for."""

    def __init__(self, store: Store, catalog: Catalog, files: Files, inspector: Inspector) -> None:
        self._store, self._catalog, self._files, self._inspector = store, catalog, files, inspector
        self._places = threading.Semaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, BaseModel], seen.Statistics] = OrderedDict()

    def statistics(self, account_id: int, file_id: str, model: str | None) -> seen.Statistics:
        """Raises InvalidRequest unless the file is checked and could train the model; the others as `_look` does."""
        file, base = self._checked(account_id, file_id, model)
        with self._lock:
            known = self._known.get((file.id, base))
        if known is not None:
            return known
        question = seen.CountTokens(base=base, file=str(self._files.content(file)))
        found = self._look(question, seen.Statistics)
        with self._lock:
            self._known[file.id, base] = found
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found

    def examples(
        self, account_id: int, file_id: str, model: str | None, *, after: int, limit: int
    ) -> tuple[list[seen.Seen], bool]:
        """Some examples, `after` skipped, and whether more follow. Raises as `statistics` does."""
        file, base = self._checked(account_id, file_id, model)
        question = seen.ShowExamples(base=base, file=str(self._files.content(file)), after=after, limit=limit)
        found = self._look(question, seen.Shown).examples
        return found, after + len(found) < (file.examples or 0)

    def overlap(self, account_id: int, file_id: str, other_id: str) -> Pairs:
        """Examples of the other file that stand in this one too: line numbers (this, other)."""
        file, other = self._files.get(account_id, file_id), self._files.get(account_id, other_id)
        for one, param in ((file, "file_id"), (other, "with")):
            _refuse_unchecked(one, param)
        question = seen.FindShared(file=str(self._files.content(file)), other=str(self._files.content(other)))
        return self._look(question, seen.Shared).pairs

    def corrected(self, account_id: int, file_id: str, *, leave_out: bool) -> tuple[File, Correction, Path]:
        """The file, what was mended, and the corrected content; it is kept as long as the file is.

        Raises InvalidRequest for files that aren't training files, WrongState for one that isn't there yet.
        """
        file = self._files.get(account_id, file_id)
        _refuse_other_purpose(file, "file_id")
        content = self._files.content(file)
        key = f"corrected/{file.id}/{'without' if leave_out else 'with'}"
        about = self._store.blobs.path(f"{key}.json")
        if not about.exists():
            with self._store.blobs.write(f"{key}.jsonl") as stream:
                question = seen.CorrectFile(file=str(content), target=stream.name, leave_out=leave_out)
                found = self._look(question, seen.Corrected)
            with self._store.blobs.write(f"{key}.json") as stream:
                stream.write(msgspec.json.encode(found.correction))
        correction = msgspec.json.decode(about.read_bytes(), type=Correction)
        return file, correction, self._store.blobs.path(f"{key}.jsonl")

    def _checked(self, account_id: int, file_id: str, model: str | None) -> tuple[File, BaseModel]:
        file = self._files.get(account_id, file_id)
        target = self._catalog.find(account_id, model or BUNDLED)
        method = {"type": "dpo"} if file.format == PREFERENCE else None
        requested = recipe.parse(None, method, base=target.base.model)
        _refuse_unchecked(file, "file_id")
        refuse_unfit(file, formats_of(target, requested), "file_id")
        return file, target.base.model

    def _look(self, question: seen.Question, kind: type[AnswerT]) -> AnswerT:
        """Raises InvalidRequest for what the base can't read, TooManyRequests, InspectionFailed."""
        with self._place():
            answer = self._inspector.look(question, seconds=SECONDS)
        if isinstance(answer, kind):
            return answer
        if isinstance(answer, Failed) and answer.code != "internal_error":
            raise InvalidRequest(answer.message, param=answer.param, code=answer.code)
        why = answer.message if isinstance(answer, Failed) else f"it took longer than {SECONDS:.0f} seconds"
        raise InspectionFailed(f"The file couldn't be looked into: {why}.")

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(timeout=WAIT_SECONDS):
            raise TooManyRequests("Other files are being looked into. Please retry after a moment.")
        try:
            yield
        finally:
            self._places.release()


def _refuse_unchecked(file: File, param: str) -> None:
    _refuse_other_purpose(file, param)
    if file.status == FileStatus.ERROR:
        raise InvalidRequest(
            f"The file '{file.id}' has errors, so it has no examples. {file.status_details}", param=param
        )
    refuse_unchecked(file, param)


def _refuse_other_purpose(file: File, param: str) -> None:
    if file.purpose != TRAINING:
        raise InvalidRequest(
            f"The file '{file.id}' has the purpose {file.purpose!r}; only files of {TRAINING!r} hold examples.",
            param=param,
        )
