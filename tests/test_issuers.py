"""Outside authorities: a real second issuer, whose tokens open what its principals' roles grant, and nothing else."""

import math
import time
from collections.abc import Iterator

import pytest
from joserfc.jwk import RSAKey

from tests.identities import bearer
from tests.live import LiveService, live_service
from tests.second_issuer import AUDIENCE, SecondIssuer, second_issuer
from tunery import issuers
from tunery.errors import IssuerUnavailable, Unauthorized
from tunery.issuers import Trusted
from tunery.records import PrincipalKind
from tunery.settings import Issuer


@pytest.fixture
def outside() -> Iterator[SecondIssuer]:
    with second_issuer() as issuer:
        yield issuer


@pytest.fixture
def trusted(outside: SecondIssuer) -> Trusted:
    return Trusted(Issuer(issuer=outside.url, audience=AUDIENCE), time.time)


@pytest.fixture(scope="module")
def service_and_issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveService, SecondIssuer]]:
    with second_issuer() as issuer:
        settings = [Issuer(issuer=issuer.url, audience=AUDIENCE)]
        with live_service(tmp_path_factory.mktemp("home"), issuers=settings) as service:
            yield service, issuer


def statuses(service: LiveService, token: str) -> tuple[int, int]:
    return (
        service.http("GET", "/openai/files", **bearer(token)).status_code,
        service.arm("GET", "/deployments", **bearer(token)).status_code,
    )


def test_a_principal_of_an_outside_issuer_may_what_its_role_grants(
    service_and_issuer: tuple[LiveService, SecondIssuer],
) -> None:
    service, issuer = service_and_issuer
    assert statuses(service, issuer.token(oid="oid-guest")) == (401, 401)
    principals = service.rooms.access.principals
    guest = principals.add("guest", PrincipalKind.USER, issuer=issuer.url, object_id="oid-guest")
    assert statuses(service, issuer.token(oid="oid-guest")) == (401, 404)
    principals.assign(guest, "Cognitive Services OpenAI User", service.account.arm_id, by="tests")
    assert statuses(service, issuer.token(oid="oid-guest")) == (200, 200)
    assert statuses(service, issuer.token(oid="oid-guest", aud="somebody else")) == (401, 401)


def test_an_issuer_speaks_for_its_own_principals_only(
    service_and_issuer: tuple[LiveService, SecondIssuer],
) -> None:
    service, issuer = service_and_issuer
    client, _ = service.rooms.access.owner_client()
    ours = service.rooms.access.tokens.issuer
    for claims in ({"oid": client.id}, {"oid": client.id, "owner": True}, {"oid": client.id, "iss": ours}):
        assert statuses(service, issuer.token(**claims)) == (401, 401)
    tenant = service.rooms.access.tenant_id
    for audience in (service.rooms.settings.arm_audience, "https://cognitiveservices.azure.com"):
        forged = issuer.token(oid=client.id, owner=True, iss=ours, tid=tenant, aud=audience)
        assert statuses(service, forged) == (401, 401)


def test_the_object_id_is_oid_and_the_subject_where_there_is_none(outside: SecondIssuer, trusted: Trusted) -> None:
    assert issuers.object_id(trusted.verify(outside.token(sub="s"))) == "oid-1"
    assert issuers.object_id(trusted.verify(outside.token(oid=None, sub="s"))) == "s"
    assert trusted.verify(outside.token(aud=["other", AUDIENCE]))


def test_what_it_didn_t_sign_or_not_for_us_or_not_now_is_refused(outside: SecondIssuer, trusted: Trusted) -> None:
    now = int(time.time())
    good = outside.token()
    wrong = [
        outside.token(aud="other"),
        outside.token(aud=None),
        outside.token(exp=now - 3600),
        outside.token(exp=None),
        outside.token(nbf=now + 3600),
        outside.token(iss="http://other"),
        outside.token(key=RSAKey.generate_key(2048)),
        outside.token(header={"kid": "unknown"}),
        good[:-6],
        "eyJhbGciOiJub25lIn0." + good.split(".")[1] + ".",
        "a.b.c",
        "",
    ]
    for token in wrong:
        with pytest.raises(Unauthorized):
            trusted.verify(token)


def test_keys_are_fetched_once_and_again_for_a_new_one_but_not_at_a_stranger_s_bidding(
    outside: SecondIssuer, trusted: Trusted, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        trusted.verify(outside.token())
    assert outside.fetches == 1
    monkeypatch.setattr(issuers, "RETRY_SECONDS", math.inf)
    outside.rotate()
    with pytest.raises(Unauthorized):
        trusted.verify(outside.token())
    assert outside.fetches == 1
    monkeypatch.setattr(issuers, "RETRY_SECONDS", -1.0)
    assert trusted.verify(outside.token())
    assert outside.fetches == 2


def test_an_issuer_that_fails_is_unavailable_until_it_was_heard_once(
    outside: SecondIssuer, trusted: Trusted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuers, "RETRY_SECONDS", -1.0)
    outside.broken = True
    with pytest.raises(IssuerUnavailable):
        trusted.verify(outside.token())
    outside.broken = False
    assert trusted.verify(outside.token())
    outside.broken = True
    monkeypatch.setattr(issuers, "KEYS_SECONDS", -1.0)
    assert trusted.verify(outside.token())


def test_a_discovery_document_of_another_issuer_is_not_believed(outside: SecondIssuer, trusted: Trusted) -> None:
    outside.named = "http://another"
    with pytest.raises(IssuerUnavailable):
        trusted.verify(outside.token())


def test_an_issuer_elsewhere_has_to_speak_tls() -> None:
    far = Trusted(Issuer(issuer="http://issuer.example", audience=AUDIENCE), time.time)
    with pytest.raises(IssuerUnavailable):
        far.verify(SecondIssuer("http://issuer.example").token())
