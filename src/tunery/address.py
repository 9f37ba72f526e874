"""Where a running service answers, kept in its home for the commands that ask it."""

from pathlib import Path

import msgspec

from tunery.errors import InvalidRequest
from tunery.settings import Settings


class Address(msgspec.Struct, frozen=True):
    endpoint: str
    tls_endpoint: str | None
    ca: str


def write_address(settings: Settings, ca: Path) -> None:
    address = Address(settings.endpoint, settings.tls_endpoint if settings.tls_port else None, str(ca.resolve()))
    (settings.home / "address.json").write_bytes(msgspec.json.encode(address))


def read_address(settings: Settings) -> Address:
    """Raises InvalidRequest if no service was ever started in this home."""
    path = settings.home / "address.json"
    if not path.is_file():
        raise InvalidRequest(f"No service was started in {settings.home} yet. Run: tunery serve --home {settings.home}")
    return msgspec.json.decode(path.read_bytes(), type=Address)
