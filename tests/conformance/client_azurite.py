"""Imports from a real Azurite: blobs put by azure-storage-blob, links signed by it, and a line that is cut twice."""

import contextlib
import datetime
import hashlib
import os
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import requests
from azure.core.exceptions import ServiceRequestError
from azure.storage.blob import BlobSasPermissions, BlobServiceClient, generate_blob_sas
from checks import Checks, until

ENDPOINT, KEY = os.environ["AZURE_OPENAI_ENDPOINT"], os.environ["AZURE_OPENAI_API_KEY"]
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # published
CUT_AFTER = 100 * 1024 * 1024
LINE = '{"messages": [{"role": "user", "content": "%d %s"}, {"role": "assistant", "content": "a"}]}\n'
check = Checks()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class CuttingProxy:
    """Passes TCP connections on; each of the first two ends after CUT_AFTER bytes from the server."""

    def __init__(self, target):
        self.target, self.connections = target, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self.target))
            budget = CUT_AFTER if self.connections <= 2 else 1 << 60
            threading.Thread(target=self.pump, args=(client, server, 1 << 60), daemon=True).start()
            threading.Thread(target=self.pump, args=(server, client, budget), daemon=True).start()

    def pump(self, source, target, budget):
        with contextlib.suppress(OSError):
            while budget > 0 and (data := source.recv(min(65536, budget))):
                target.sendall(data)
                budget -= len(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def start_azurite(folder, port):
    flags = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", folder]
    flags += ["--silent", "--disableTelemetry", "--skipApiVersionCheck"]
    return subprocess.Popen([os.environ["AZURITE"], *flags])


def link(name, port, **sas):
    """To the blob, through `port`; signed, unless a signature is given."""
    expiry = datetime.datetime.now(datetime.UTC) + sas.pop("life", datetime.timedelta(hours=1))
    given = {"account_key": ACCOUNT_KEY, "permission": BlobSasPermissions(read=True), "expiry": expiry, **sas}
    signed = generate_blob_sas(ACCOUNT, "data", name, **given)
    return f"http://127.0.0.1:{port}/{ACCOUNT}/data/{name}?{signed}"


def put(name, content, container="data"):
    service.get_container_client(container).upload_blob(name, content)


def ask(url, purpose="fine-tune"):
    body = {"purpose": purpose, "filename": "training.jsonl", "content_url": url}
    answer = requests.post(
        f"{ENDPOINT}/openai/files/import?api-version=2024-10-21", json=body, headers={"api-key": KEY}, timeout=30
    )
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def look(file):
    url = f"{ENDPOINT}/openai/files/{file}?api-version=2024-10-21"
    return requests.get(url, headers={"api-key": KEY}, timeout=30).json()


def fetched(url, purpose="fine-tune"):
    file = ask(url, purpose)
    return until(lambda: look(file), lambda found: found["status"] in ("processed", "error"), seconds=240)


def ready():
    try:
        return service.get_service_properties() is not None
    except ServiceRequestError:
        return False


with tempfile.TemporaryDirectory() as folder:
    port = free_port()
    azurite = start_azurite(folder, port)
    proxy = CuttingProxy(port)
    service = BlobServiceClient(f"http://127.0.0.1:{port}/{ACCOUNT}", credential=ACCOUNT_KEY, retry_total=0)
    until(ready, bool)
    small = "".join(LINE % (number, "x") for number in range(20)).encode()
    service.create_container("data")
    service.create_container("open", public_access="blob")
    put("small.jsonl", small)
    put("open.jsonl", small, "open")

    @check("a blob with a SAS, its MD5 compared")
    def signed():
        found = fetched(link("small.jsonl", port))
        assert found["status"] == "processed", found
        assert found["sha256"] == hashlib.sha256(small).hexdigest()

    @check("a public blob without one")
    def public():
        found = fetched(f"http://127.0.0.1:{port}/{ACCOUNT}/open/open.jsonl")
        assert found["status"] == "processed", found

    @check("an expired SAS, none, a wrong one: refused, and the signature is told to nobody")
    def unsigned():
        expired = link("small.jsonl", port, life=datetime.timedelta(hours=-1))
        wrong = link("small.jsonl", port).replace("sig=", "sig=A")
        for url in (expired, wrong, expired.partition("?")[0]):
            found = fetched(url)
            assert found["status"] == "error", found
            assert "refuses access (403)" in found["status_details"], found
            assert "sig=" not in str(found), found

    @check("a blob that isn't there")
    def missing():
        assert "has nothing at that link (404)" in fetched(link("missing", port))["status_details"]

    @check("300 MB over a line that is cut twice")
    def large():
        path, digest = Path(folder) / "large.jsonl", hashlib.sha256()
        with path.open("wb") as stream:
            for number in range(3000):
                line = (LINE % (number, "x" * 105_000)).encode()
                digest.update(line)
                stream.write(line)
        with path.open("rb") as stream:
            put("large.jsonl", stream)
        assert path.stat().st_size > 300 * 1024 * 1024
        found = fetched(link("large.jsonl", proxy.port))
        assert found["status"] == "processed", found
        assert found["bytes"] == path.stat().st_size
        assert found["sha256"] == digest.hexdigest()
        assert proxy.connections == 3, proxy.connections

    azurite.terminate()
    azurite.wait()
