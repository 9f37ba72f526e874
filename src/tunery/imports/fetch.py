"""One claim of one import, from the lease to the settled row."""

import contextlib
import hashlib
import logging
import threading

from tunery.errors import FileImportFailed, TuneryError
from tunery.imports import links
from tunery.imports.download import Download
from tunery.imports.partial import Partial
from tunery.imports.rows import Claim, ImportLost, Imports
from tunery.imports.watch import Halted, Watch

logger = logging.getLogger(__name__)


class Fetch:
    """Ends in a file with content, a file in error, or a lease given back; a lost one is left to its new holder."""

    def __init__(self, imports: Imports, claim: Claim, stopping: threading.Event) -> None:
        self._imports = imports
        self._claim = claim
        settings, url = imports.settings, links.checked(claim.url)
        self._host = url.host
        self._partial = Partial(imports.folder, claim.file.id, claim.token)
        self._watch = Watch(
            self._beat,
            stopping,
            host=url.host,
            beat_seconds=claim.lease_seconds / 3,
            stall_seconds=settings.import_stall_seconds,
            total_seconds=settings.import_seconds,
            spent=claim.spent,
        )
        self._download = Download(
            url,
            self._partial,
            content=claim.content,
            gate=imports.gate,
            watch=self._watch,
            limit=claim.limit,
        )

    def run(self) -> None:
        try:
            self._partial.take_over(self._claim.file.bytes, self._watch.look)
            self._download.run()
            self._keep()
        except ImportLost:
            logger.info("the import of %s is no longer ours", self._claim.file.id)
        except Halted:
            with contextlib.suppress(ImportLost):
                self._beat()
                self._imports.give_back(self._claim)
            self._partial.close()
            return
        except TuneryError as error:
            fail_import(self._imports, self._claim, error.message)
        self._partial.remove()

    def _beat(self) -> None:
        self._partial.sync()
        content, spent = self._download.content, self._watch.spent
        self._imports.beat(self._claim, size=self._partial.size, content=content, spent=spent)

    def _keep(self) -> None:
        """Copy into the blob store under a key of this claim's own: an old holder can't change what a new one kept."""
        claim, blobs = self._claim, self._imports.store.blobs
        for token in range(1, claim.token):
            blobs.delete(_key(claim, token))
        self._watch.beat()
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        with blobs.write(_key(claim, claim.token)) as stream:
            for chunk in self._partial.chunks():
                self._watch.received(len(chunk))
                self._watch.look()
                sha256.update(chunk)
                md5.update(chunk)
                stream.write(chunk)
            wanted = self._download.content.md5
            if wanted is not None and md5.hexdigest() != wanted:
                raise FileImportFailed(
                    f"What came from {self._host} has the MD5 {md5.hexdigest()}, announced was {wanted}: it was "
                    "damaged there or on the way. Import it again."
                )
        try:
            self._imports.finish(
                claim, blob=_key(claim, claim.token), size=self._partial.size, sha256=sha256.hexdigest()
            )
        except (ImportLost, TuneryError):
            blobs.delete(_key(claim, claim.token))
            raise


def fail_import(imports: Imports, claim: Claim, message: str) -> None:
    with contextlib.suppress(ImportLost):
        imports.fail(claim, f"{FileImportFailed.code}: {message}")


def _key(claim: Claim, token: int) -> str:
    return f"files/{claim.file.id}-{token}"
