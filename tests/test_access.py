"""Tokens, certificates and settings: what opens the door, and what doesn't."""

import ssl
import stat
import subprocess
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.fake_training import FakeClock
from tunery import certificates
from tunery import settings as settings_module
from tunery.access import Access
from tunery.accounts import Accounts
from tunery.errors import InvalidRequest, Unauthorized, WrongState
from tunery.records import PrincipalKind
from tunery.settings import Settings
from tunery.store import Store

AUDIENCE = "https://localhost:8443/"


@pytest.fixture
def access(store: Store, settings: Settings) -> Access:
    return Access(store, settings, Accounts(store, settings))


def test_secrets_are_readable_by_their_owner_alone(access: Access, settings: Settings) -> None:
    for name in ("secret.key", "signing.pem"):
        assert stat.S_IMODE((settings.home / name).stat().st_mode) == 0o600


def test_a_token_opens_until_it_expires(access: Access, clock: FakeClock, settings: Settings) -> None:
    token = access.issue_token(name="me", audience=AUDIENCE)
    assert access.by_token(token, audience=AUDIENCE).name == "me"
    clock.advance(settings.token_seconds + 1)
    with pytest.raises(Unauthorized):
        access.by_token(token, audience=AUDIENCE)


def test_a_token_for_somebody_else_or_by_somebody_else_opens_nothing(access: Access, clock: FakeClock) -> None:
    with pytest.raises(Unauthorized):
        access.by_token(access.issue_token(name="me", audience="https://other/"), audience=AUDIENCE)
    claims = {"aud": AUDIENCE, "tid": access.tenant_id, "sub": "me", "exp": int(clock()) + 100}
    forged = jwt.encode({"alg": "RS256"}, claims, RSAKey.generate_key(2048))
    unsigned = "eyJhbGciOiJub25lIn0." + forged.split(".")[1] + "."
    for token in (forged, unsigned, "a.b.c", "", forged[:-4]):
        with pytest.raises(Unauthorized):
            access.by_token(token, audience=AUDIENCE)


def test_a_token_without_expiry_opens_nothing(access: Access) -> None:
    claims = {"aud": AUDIENCE, "tid": access.tenant_id, "sub": "me"}
    eternal = jwt.encode({"alg": "RS256"}, claims, access.tokens._key)
    with pytest.raises(Unauthorized):
        access.by_token(eternal, audience=AUDIENCE)


def test_the_owner_s_client_is_made_once_and_its_secret_can_be_told_again(access: Access) -> None:
    client, secret = access.owner_client()
    assert access.owner_client() == (client, secret)
    assert access.principals.prove(client.id, secret, PrincipalKind.APPLICATION) == client
    assert [(held.role, held.scope) for _, held in access.principals.assignments()] == [("Owner", "")]
    access.principals.set_secret(client)
    with pytest.raises(WrongState, match="was changed"):
        access.owner_client()


def test_a_token_of_a_principal_that_is_unknown_opens_nothing(access: Access) -> None:
    stranger = access.tokens.sign(AUDIENCE, 60, oid="nobody", sub="nobody")
    with pytest.raises(Unauthorized, match="nobody"):
        access.by_token(stranger, audience=AUDIENCE)


def test_openssl_verifies_the_certificate_for_localhost_against_the_ca(tmp_path: Path) -> None:
    paths = certificates.ensure(tmp_path)
    context = ssl.create_default_context(cafile=str(paths.ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(paths.certificate, paths.key)
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "localhost"]
    command += ["-CAfile", str(paths.ca), str(paths.certificate)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert certificates.ensure(tmp_path) == paths


def test_settings_come_from_file_environment_and_command_line_in_this_order(tmp_path: Path) -> None:
    (tmp_path / "tunery.toml").write_text('port = 1\ntls_port = 2\naccount = "file"\n')
    environ = {"TUNERY_TLS_PORT": "3", "TUNERY_ACCOUNT": "printed-by-env", "TUNERY_SAVE_EVERY": "7"}
    environ |= {"TUNERY_MODELS": "~/elsewhere"}
    loaded = settings_module.load(home=tmp_path, port=None, host="::1", environ=environ)
    assert (loaded.port, loaded.tls_port, loaded.save_every, loaded.host) == (1, 3, 7, "::1")
    assert loaded.account == "file"
    assert loaded.models == Path.home() / "elsewhere"


def test_an_unknown_setting_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "tunery.toml").write_text("prot = 1\n")
    with pytest.raises(InvalidRequest, match="prot"):
        settings_module.load(home=tmp_path, environ={})
