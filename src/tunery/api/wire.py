"""Azure's and OpenAI's words: URL families, api-versions, keys, paging, bodies and error shapes. Only here.

Three families share one server (contract.md 0): classic `/openai/...?api-version=DATE`, v1 `/openai/v1/...`, and ARM
`/subscriptions/...`. A handler raises errors.TuneryError; which JSON that becomes is decided by the path it came on.

Azure gives each account a host name of its own. Here it has a path: `/accounts/NAME/openai/...` is that account's data
plane (NAME is its sub-domain), on one host with one certificate, whatever names resolve to.
"""

import math
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from enum import Enum
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Depends, Request
from fastapi.responses import JSONResponse, Response

from tunery import roles
from tunery.access import Access
from tunery.accounts import Accounts
from tunery.api.rights import authorise
from tunery.errors import (
    Allowance,
    InvalidRequest,
    NotFound,
    RateLimited,
    SignInRefused,
    SignInThrottled,
    TooLarge,
    TuneryError,
    Unauthorized,
)
from tunery.records import Account
from tunery.roles import Caller
from tunery.settings import DATA_PLANE_AUDIENCE

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
StructT = TypeVar("StructT")

OWN_PATH = re.compile(r"^/accounts/[^/]+(?=/openai/)")
OLDEST_VERSION = "2022-12-01"
DATED = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(-preview)?")
V1_VERSIONS = ("v1", "preview")
NO_SUCH_PATH = "Resource not found"


class Family(Enum):
    CLASSIC = "classic"
    V1 = "v1"
    ARM = "arm"


class Call(msgspec.Struct, frozen=True):
    """Who calls which family for which account."""

    family: Family
    caller: Caller
    account: Account

    @property
    def created(self) -> int:
        """Status of a successful create: classic 201, v1 200."""
        return 201 if self.family is Family.CLASSIC else 200


def family_of(path: str) -> Family:
    path = OWN_PATH.sub("", path)
    if path.lower().startswith(("/subscriptions", "/tenants")):
        return Family.ARM
    return Family.V1 if path.startswith("/openai/v1/") else Family.CLASSIC


def data_plane(request: Request) -> Call:
    """The dependency of every data-plane route: version, proof and right are there, or the contract's error."""
    family = family_of(request.url.path)
    check_version(family, request.query_params.get("api-version"))
    caller = _caller(request.app.state.access, request)
    account = _account(request, caller)
    authorise(request, caller, account)
    return Call(family, caller, account)


def _account(request: Request, caller: Caller) -> Account:
    """The account whose own path it is, else the key's, else the first where the caller holds a role."""
    accounts: Accounts = request.app.state.accounts
    named = request.scope.get("root_path", "").removeprefix("/accounts/")
    if not named:
        return caller.account or next((one for one in accounts.all() if roles.sees(caller, one)), accounts.first())
    account = accounts.by_sub_domain(named)
    if caller.account is not None and caller.account != account:
        raise Unauthorized(f"Access denied: this isn't a key of the account '{named}'.", code="401")
    if account is None or (caller.account is None and not roles.sees(caller, account)):
        raise NotFound(NO_SUCH_PATH, code="404")
    return account


DataPlane = Annotated[Call, Depends(data_plane)]


def check_version(family: Family, version: str | None) -> None:
    if family is Family.V1:
        if version is not None and version not in V1_VERSIONS:
            raise InvalidRequest(
                f"API version not supported: api-version={version} is not allowed on /openai/v1/. "
                "Leave it out, or use a client that calls /openai/...?api-version= instead.",
                param="api-version",
            )
    elif version is None or not DATED.fullmatch(version) or version < OLDEST_VERSION:
        raise NotFound(NO_SUCH_PATH, code="404")


def _caller(access: Access, request: Request) -> Caller:
    """api-key wins: openai 1.x sends the key as a bearer too. A bearer may be a key (v1 clients) or a token."""
    key = request.headers.get("api-key")
    if key is not None:
        return access.by_key(key)
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credential:
        raise Unauthorized(
            "Access denied: no key. Send the account's key in the api-key header, or a bearer token. "
            "`tunery env` prints the key.",
            code="401",
        )
    if credential.count(".") == 2:
        return access.by_token(credential, audience=DATA_PLANE_AUDIENCE)
    return access.by_key(credential)


# --- bodies and pages ---


async def read_body(request: Request, limit: int) -> bytes:
    """Raises TooLarge before more than `limit` bytes are held."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"The request body has more than {limit} bytes.")
        chunks.append(chunk)
    return b"".join(chunks)


async def json_body(request: Request) -> bytes:
    return await read_body(request, request.app.state.settings.max_body_bytes)


JsonBody = Annotated[bytes, Depends(json_body)]

AT = re.compile(r" - at `\$\.?(?P<path>.*)`$")


def decode(body: bytes, kind: type[StructT]) -> StructT:
    """A JSON body as `kind`. Raises InvalidRequest that names the parameter and what was expected there."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        sentence = str(error)
        found = AT.search(sentence)
        param = found["path"] if found else None
        missing = re.search(r"missing required field `(\w+)`", sentence)
        if missing:
            param = missing[1]
        raise InvalidRequest(f"The request body isn't valid: {sentence}.", param=param) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The request body isn't valid JSON: {error}.") from error


@contextmanager
def in_words(parameters: Mapping[str, str]) -> Iterator[None]:
    """Refusals within name parameters as this part of the wire does."""
    try:
        yield
    except InvalidRequest as error:
        error.param = parameters.get(error.param or "", error.param)
        raise


def page_size(limit: str | None, *, default: int, most: int, name: str = "limit") -> int:
    if limit is None:
        return default
    if not limit.isascii() or not limit.isdigit() or len(limit) > 9 or not 1 <= int(limit) <= most:
        raise InvalidRequest(f"{name} is {limit[:32]!r}; it may be 1 to {most}.", param=name)
    return int(limit)


def page(data: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data and "id" in data[0] else {}
    return {"object": "list", "data": data, "has_more": more, **ends}


def reply(call: Call, body: dict[str, Any], *, status: int = 200, location: str | None = None) -> Response:
    """JSON as the family writes it: classic leaves nulls out, v1 says them."""
    if call.family is Family.CLASSIC:
        body = {key: value for key, value in body.items() if value is not None}
    headers = {"location": location} if location and status == 201 else None
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


# --- errors ---

INFERENCE = re.compile(r"^/openai/(v1/|deployments/[^/]+/)(chat/)?completions$")


def error_response(path: str, error: TuneryError) -> Response:
    family = family_of(path)
    if family is Family.ARM:
        body = _arm_error(error)
    elif path.startswith("/adfs/"):
        body = _oauth_error(error)
    elif family is Family.V1 or INFERENCE.match(OWN_PATH.sub("", path)):
        body = openai_error(error)
    else:
        body = _classic_error(error)
    headers = {}
    if error.retryable is not None:
        headers["x-should-retry"] = str(error.retryable).lower()
    if error.status in (429, 503):
        # Rounded up: a retry that comes a little too early is refused again.
        milliseconds = math.ceil(1000 * error.retry_after)
        headers |= {"retry-after": str(math.ceil(milliseconds / 1000)), "retry-after-ms": str(milliseconds)}
    if isinstance(error, RateLimited):
        headers |= rate_headers(error.allowance)
    if family is Family.ARM and error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(body, error.status, headers)


def rate_headers(allowance: Allowance | None) -> dict[str, str]:
    """What a deployment's limits leave; none where it has none."""
    if allowance is None:
        return {}
    return {
        "x-ratelimit-limit-requests": str(allowance.requests),
        "x-ratelimit-remaining-requests": str(allowance.requests_left),
        "x-ratelimit-limit-tokens": str(allowance.tokens),
        "x-ratelimit-remaining-tokens": str(allowance.tokens_left),
    }


def openai_error(error: TuneryError) -> dict[str, Any]:
    kinds = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}
    kind = kinds.get(error.status, "invalid_request_error")
    # The authoring enum's catch-all means nothing to OpenAI clients; theirs is invalid_value.
    code = "invalid_value" if error.code == InvalidRequest.code else error.code
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": code}}


def _classic_error(error: TuneryError) -> dict[str, Any]:
    body = {"code": error.code, "message": error.message}
    if error.param is not None:
        # `target` is the authoring API's word, `param` what openai-python reads.
        body |= {"target": error.param, "param": error.param}
    return {"error": body}


def _oauth_error(error: TuneryError) -> dict[str, Any]:
    """RFC 6749, 5.2."""
    ours = isinstance(error, SignInRefused | SignInThrottled)
    code = error.code if ours else "server_error" if error.status >= 500 else "invalid_request"
    return {"error": code, "error_description": error.message}


ARM_CODES = {"unauthorized": "AuthenticationFailed", "forbidden": "AuthorizationFailed"}
ARM_CODES |= {"notFound": "ResourceNotFound", "invalidPayload": "BadRequest"}
ARM_CODES |= {"conflict": "Conflict", "quotaExceeded": "InsufficientQuota"}


def _arm_error(error: TuneryError) -> dict[str, Any]:
    body = {"code": ARM_CODES.get(error.code, error.code), "message": error.message}
    return {"error": body if error.param is None else {**body, "target": error.param}}


# --- the outermost layer ---

DEPLOYMENT_ALIAS = re.compile(r"^/openai/deployments/[^/]+(?=/(files|fine_tuning|models|uploads)(/|$))")
BARE_EVENTS = re.compile(r"^/(fine_tuning/jobs|fine-tunes)/[^/]+/events$")
BARE_EVENTS_VERSION = b"api-version=2024-10-21"


class Tolerance:
    """ASGI middleware: mends the paths that real clients get wrong, and stamps every answer with its request id.

    Doubled slashes (an api_base that ends in one); files and jobs below a deployment (openai 1.12 to 1.40 with
    azure_deployment set); job events without prefix and version (openai 0.28); ARM's types in any case (az writes
    /resourcegroups/ where SDKs write /resourceGroups/). An account's own path becomes ASGI's root_path.
    """

    def __init__(self, app: ASGIApp, *, region: str) -> None:
        self._app = app
        self._region = region.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = {**mended(scope), "state": dict(scope.get("state", {}))}
        stamp = [(b"x-ms-region", self._region), (b"x-content-type-options", b"nosniff")]
        scope["state"]["request_id"] = secrets.token_hex(16)
        request_id = scope["state"]["request_id"].encode()
        stamp += [(b"apim-request-id", request_id), (b"x-request-id", request_id)]
        stamp += [(name, value) for name, value in scope["headers"] if name == b"x-ms-client-request-id"]

        async def stamped(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *stamp]
            await send(message)

        await self._app(scope, receive, stamped)


ARM_WORDS = {
    word.lower(): word
    for word in (
        "tenants",
        "subscriptions",
        "resourceGroups",
        "providers",
        "Microsoft.CognitiveServices",
        "accounts",
        "dailyUsages",
        "deployments",
        "listKeys",
        "locations",
        "modelCapacities",
        "models",
        "operations",
        "pause",
        "regenerateKey",
        "register",
        "resume",
        "skus",
        "usages",
    )
}


def canonical_case(path: str) -> str:
    """The types of an ARM path as our routes spell them; names, which stand behind each type, stay as they came."""
    first, *parts = path.split("/")
    written, follows = [first], "type"
    for part in parts:
        written.append(part if follows == "name" else ARM_WORDS.get(part.lower(), part))
        after_type = "namespace" if part.lower() == "providers" else "name"
        follows = after_type if follows == "type" else "type"
    return "/".join(written)


def mended(scope: Scope) -> Scope:
    path = re.sub("//+", "/", scope["path"])
    query = scope.get("query_string", b"")
    own = OWN_PATH.match(path)
    root = own[0] if own else ""
    path = DEPLOYMENT_ALIAS.sub("/openai", path.removeprefix(root))
    if BARE_EVENTS.match(path):
        path = "/openai" + path
        query = query if b"api-version=" in query else b"&".join(filter(None, (query, BARE_EVENTS_VERSION)))
    if family_of(path) is Family.ARM:
        path = canonical_case(path)
    return {**scope, "root_path": root, "path": root + path, "raw_path": (root + path).encode(), "query_string": query}
