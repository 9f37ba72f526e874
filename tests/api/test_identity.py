"""The built-in authority as az, MSAL and azure-identity use it: discovery, every grant, and every refusal."""

import re

import openai
import pytest
import requests
from joserfc import jwt
from joserfc.jwk import KeySet

from tests.identities import AZ_CLIENT, DATA_SCOPE, Known, arm_scope, bearer, make, post, token
from tests.live import LiveService
from tests.waiting import PATIENCE
from tunery.principals import FREE_FAILURES

OWNER = "Owner"


def get(service: LiveService, path: str, **more: object) -> requests.Response:
    given = {"verify": str(service.ca), "timeout": PATIENCE, **more}
    return requests.get(service.rooms.settings.tls_endpoint + path, **given)


def password_form(service: LiveService, user: Known, **more: str) -> dict[str, str]:
    scope = f"{arm_scope(service)} openid profile offline_access"
    form = {"grant_type": "password", "username": user.name, "password": user.secret}
    return {**form, "client_id": AZ_CLIENT, "scope": scope, "client_info": "1", **more}


def test_az_of_today_and_of_2024_learn_where_to_sign_in(service: LiveService) -> None:
    endpoint = service.rooms.settings.tls_endpoint
    new = get(service, "/metadata/endpoints?api-version=2022-09-01").json()
    assert new["authentication"]["loginEndpoint"] == f"{endpoint}/adfs"
    assert new["resourceManager"] == new["authentication"]["audiences"][0] == f"{endpoint}/"
    old = get(service, "/metadata/endpoints?api-version=2015-01-01").json()
    assert set(old) == {"galleryEndpoint", "graphEndpoint", "portalEndpoint", "authentication"}


def test_discovery_names_the_endpoints_and_its_keys_check_a_token(service: LiveService) -> None:
    found = get(service, "/adfs/.well-known/openid-configuration").json()
    keys = requests.get(found["jwks_uri"], verify=str(service.ca), timeout=PATIENCE).json()
    decoded = jwt.decode(token(service, make(service, OWNER)), KeySet.import_key_set(keys), algorithms=["RS256"])
    assert decoded.claims["iss"] == found["issuer"]
    assert decoded.header["kid"] in [key["kid"] for key in keys["keys"]]
    assert not any("d" in key for key in keys["keys"])


def test_a_service_principal_s_token_opens_what_its_role_grants(service: LiveService) -> None:
    known = make(service, OWNER)
    assert service.arm("GET", "/deployments", **bearer(token(service, known))).status_code == 200
    assert service.http("GET", "/openai/files", **bearer(token(service, known, DATA_SCOPE))).status_code == 200


def test_a_token_for_one_plane_opens_nothing_on_the_other(service: LiveService) -> None:
    known = make(service, OWNER)
    assert service.arm("GET", "/deployments", **bearer(token(service, known, DATA_SCOPE))).status_code == 401
    assert service.http("GET", "/openai/files", **bearer(token(service, known))).status_code == 401


def test_a_removed_principal_s_token_ends_at_once(service: LiveService) -> None:
    known = make(service, OWNER)
    held = token(service, known)
    principals = service.rooms.access.principals
    principals.remove(principals.get(known.id))
    assert service.arm("GET", "/deployments", **bearer(held)).status_code == 401


def test_a_user_s_password_gives_who_it_is_and_a_way_back(service: LiveService) -> None:
    user = make(service, OWNER, user=True)
    first = post(service, "token", password_form(service, user)).json()
    assert service.arm("GET", "/deployments", **bearer(first["access_token"])).status_code == 200
    assert first["id_token"] and first["client_info"]
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"], "client_id": AZ_CLIENT}
    second = post(service, "token", {**form, "scope": DATA_SCOPE}).json()
    assert service.http("GET", "/openai/files", **bearer(second["access_token"])).status_code == 200


def test_a_new_password_ends_refresh_tokens(service: LiveService) -> None:
    user = make(service, OWNER, user=True)
    held = post(service, "token", password_form(service, user)).json()["refresh_token"]
    principals = service.rooms.access.principals
    principals.set_secret(principals.get(user.id))
    form = {"grant_type": "refresh_token", "refresh_token": held, "client_id": AZ_CLIENT}
    assert post(service, "token", form).json()["error"] == "invalid_grant"


def test_neither_a_refresh_token_nor_an_id_token_opens_a_route(service: LiveService) -> None:
    answer = post(service, "token", password_form(service, make(service, OWNER, user=True))).json()
    for name in ("refresh_token", "id_token"):
        assert service.arm("GET", "/deployments", **bearer(answer[name])).status_code == 401


def test_a_device_code_waits_until_a_user_approves_it_and_works_once(service: LiveService) -> None:
    user = make(service, OWNER, user=True)
    begun = post(service, "devicecode", {"client_id": AZ_CLIENT, "scope": arm_scope(service)}).json()
    poll = {"grant_type": "device_code", "client_id": AZ_CLIENT, "code": begun["device_code"]}
    assert post(service, "token", poll).json()["error"] == "authorization_pending"
    typed = begun["user_code"][:4].lower() + "-" + begun["user_code"][4:]
    approval = {"user_code": typed, "username": user.name, "password": user.secret}
    assert post(service, "deviceauth", {**approval, "password": "wrong"}).status_code == 400
    assert post(service, "token", poll).json()["error"] == "authorization_pending"
    assert "Done" in post(service, "deviceauth", approval).text
    assert post(service, "token", {**poll, "client_id": "another"}).json()["error"] == "invalid_grant"
    opened = post(service, "token", poll).json()["access_token"]
    assert service.arm("GET", "/deployments", **bearer(opened)).status_code == 200
    assert post(service, "token", poll).json()["error"] == "expired_token"


def test_the_page_for_device_codes_shows_what_was_typed_as_text_only(service: LiveService) -> None:
    page = get(service, "/adfs/oauth2/deviceauth", params={"user_code": '"><script>alert(1)</script>'})
    assert "<script>" not in page.text
    assert "&quot;&gt;&lt;script&gt;" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert re.search(r"frame-ancestors 'none'", page.headers["content-security-policy"])


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"client_id": "nobody"}, 401, "invalid_client"),
        ({"client_id": ""}, 401, "invalid_client"),
        ({"grant_type": "implicit"}, 400, "unsupported_grant_type"),
        ({"grant_type": ""}, 400, "unsupported_grant_type"),
        ({"scope": "https://graph.microsoft.com/.default"}, 400, "invalid_scope"),
        ({"scope": ""}, 400, "invalid_scope"),
        ({"grant_type": "password"}, 400, "invalid_grant"),
        ({"grant_type": "refresh_token"}, 400, "invalid_grant"),
        ({"grant_type": "device_code"}, 400, "expired_token"),
    ],
)
def test_a_bad_request_for_a_token_has_oauth_s_error(
    service: LiveService, change: dict[str, str], status: int, error: str
) -> None:
    known = make(service)
    form = {"grant_type": "client_credentials", "client_id": known.id, "client_secret": known.secret}
    answer = post(service, "token", {**form, "scope": arm_scope(service), **change})
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.json()["error_description"]
    assert known.secret not in answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe",
        b"%ff=%fe",
        b"grant_type=password&username=%00",
        b"&".join(b"a%d=1" % n for n in range(60)),
        b"a" * 70_000,
    ],
)
def test_a_body_that_is_no_form_is_refused_in_oauth_s_shape(service: LiveService, body: bytes) -> None:
    url = f"{service.rooms.settings.tls_endpoint}/adfs/oauth2/token"
    answer = requests.post(url, data=body, verify=str(service.ca), timeout=PATIENCE)
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"] in ("invalid_request", "unsupported_grant_type")


def test_wrong_secrets_are_throttled_with_the_seconds_to_wait(service: LiveService) -> None:
    known = make(service)
    form = {"grant_type": "client_credentials", "client_id": known.id, "scope": arm_scope(service)}
    # On a slow machine a short wait is over before the next try: the waits double until one is not.
    answers = [post(service, "token", {**form, "client_secret": "wrong"}) for _ in range(FREE_FAILURES)]
    while answers[-1].status_code == 401 and len(answers) < FREE_FAILURES + 5:
        answers.append(post(service, "token", {**form, "client_secret": "wrong"}))
    assert [answer.status_code for answer in answers[:FREE_FAILURES]] == [401] * FREE_FAILURES
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_secrets_are_not_taken_over_plain_http(service: LiveService) -> None:
    known = make(service)
    form = {"grant_type": "client_credentials", "client_id": known.id, "client_secret": known.secret}
    answer = requests.post(f"{service.base}/adfs/oauth2/token", data=form, timeout=PATIENCE)
    assert answer.status_code == 404
    assert "TLS" in answer.json()["error_description"]


def test_tokens_aren_t_cached_on_the_way(service: LiveService) -> None:
    answer = post(service, "token", password_form(service, make(service, user=True)))
    assert answer.headers["cache-control"] == "no-store"


def test_subscriptions_are_those_where_the_caller_holds_a_role(service: LiveService) -> None:
    url = f"{service.rooms.settings.tls_endpoint}/subscriptions?api-version=2022-12-01"
    seen = []
    for known in (make(service, "Cognitive Services OpenAI User"), make(service)):
        answer = requests.get(url, verify=str(service.ca), timeout=PATIENCE, **bearer(token(service, known)))
        seen.append([found["subscriptionId"] for found in answer.json()["value"]])
    assert seen == [[service.account.subscription_id], []]


def test_openai_s_azure_ad_token_provider_signs_in_on_the_data_plane(service: LiveService) -> None:
    known = make(service, "Cognitive Services OpenAI User")
    client = service.azure(api_key=None, azure_ad_token_provider=lambda: token(service, known, DATA_SCOPE))
    assert isinstance(list(client.files.list()), list)
    with pytest.raises(openai.AuthenticationError) as refused:
        client.files.create(file=("t.jsonl", b"{}"), purpose="fine-tune")
    assert refused.value.code == "PermissionDenied"
    assert known.name in refused.value.message and "/files/write" in refused.value.message
