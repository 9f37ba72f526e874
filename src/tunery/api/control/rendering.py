"""What ARM's objects have in common."""

import datetime
from typing import Any


def system_data(*, by: str, created_at: int, updated_at: int) -> dict[str, Any]:
    return {
        "createdBy": by,
        "createdByType": "User",
        "createdAt": iso(created_at),
        "lastModifiedBy": by,
        "lastModifiedByType": "User",
        "lastModifiedAt": iso(updated_at),
    }


def iso(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
