"""Keys, secrets and tokens appear where they were asked for and nowhere else: logs, errors, database, home folder."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.identities import AZ_CLIENT, DATA_SCOPE, arm_scope, bearer, make, post, token
from tests.live import LiveService, live_service


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service of its own: what lies in its home is what this module's requests left there."""
    with live_service(tmp_path_factory.mktemp("secrecy")) as service:
        yield service


def use(service: LiveService) -> tuple[set[str], list[requests.Response]]:
    """Sign in in every way, use and misuse what comes of it: the secrets, and answers that may not hold them."""
    robot, alice = make(service, "Owner"), make(service, "Owner", user=True)
    user = {"grant_type": "password", "username": alice.name, "password": alice.secret, "client_id": AZ_CLIENT}
    signed = post(service, "token", {**user, "scope": f"{arm_scope(service)} openid"}).json()
    held = [token(service, robot), token(service, robot, DATA_SCOPE), signed["access_token"]]
    hidden = {*held, signed["refresh_token"], signed["id_token"], robot.secret, alice.secret, service.key}
    hidden |= set(service.arm("POST", "/listKeys").json().values())
    client = {"grant_type": "client_credentials", "client_id": robot.id, "scope": "https://elsewhere/.default"}
    answers = [
        post(service, "token", {**client, "client_secret": robot.secret}),
        post(service, "token", {**user, "password": alice.secret + "x", "scope": arm_scope(service)}),
        post(service, "token", {**user, "grant_type": alice.secret}),
        post(service, "token", {"grant_type": "refresh_token", "refresh_token": held[0], "client_id": AZ_CLIENT}),
        service.arm("GET", "/deployments", **bearer(held[1])),
        service.arm("GET", "/deployments", **bearer(held[0][:-9] + "x" * 9)),
        service.http("GET", "/openai/files", **bearer(held[0])),
        service.http("GET", "/openai/files", headers={"api-key": service.key[:-1]}),
        service.http("GET", "/openai/files/file-none", headers={"api-key": service.key}),
        service.http("POST", "/openai/fine_tuning/jobs", json={"model": 1}, **bearer(held[1])),
    ]
    return hidden, answers


def test_nothing_that_opens_a_door_is_in_logs_errors_or_the_home_folder(
    quiet: LiveService, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        hidden, answers = use(quiet)
    assert all(answer.status_code >= 400 for answer in answers)
    said = "".join(record.getMessage() for record in caplog.records)
    said += "".join(answer.text + str(answer.headers) for answer in answers)
    kept = b"".join(path.read_bytes() for path in Path(quiet.rooms.settings.home).rglob("*") if path.is_file())
    for secret in hidden:
        assert secret not in said
        assert secret.encode() not in kept
