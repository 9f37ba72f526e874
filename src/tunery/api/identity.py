"""The built-in authority over HTTP, where az, MSAL and azure-identity look for it (clients.md 1, 2)."""

import html
import string
from collections.abc import Callable
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

import anyio
from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from tunery.api.wire import read_body
from tunery.authority import CODE_SECONDS, POLL_SECONDS, Authority, Form
from tunery.errors import NotFound, SignInRefused, SignInThrottled
from tunery.settings import Settings
from tunery.tokens import ALGORITHM, Tokens

router = APIRouter()

LONGEST_FORM = 64 * 1024
MOST_WAITING = 50
OLD_METADATA = "2015-01-01"
NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}
PAGE_HEADERS = {
    **NO_STORE,
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "referrer-policy": "no-referrer",
}
PAGE = string.Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Sign in to Tunery</title>
<style>body{font:16px system-ui;max-width:24rem;margin:4rem auto;padding:0 1rem}label,input,button{display:block;
width:100%;box-sizing:border-box;margin:.3rem 0;padding:.4rem;font:inherit}</style>
<h1>Sign in to Tunery</h1>
<p role="status">$message</p>
<form method="post">
<label>Code <input name="user_code" value="$code" required autocomplete="off"></label>
<label>User name <input name="username" required autocomplete="username"></label>
<label>Password <input name="password" type="password" required autocomplete="current-password"></label>
<button>Let the program in</button>
</form>
</html>
""")
ASK = "A program asks to act as you. Go on only if you started it yourself and it shows this code."
ResultT = TypeVar("ResultT")


@router.get("/metadata/endpoints")
def metadata(request: Request) -> Response:
    """What `az cloud register` learns about this cloud; az of 2024 and before asks for the older shape."""
    settings: Settings = request.app.state.settings
    endpoint, arm = settings.tls_endpoint, settings.arm_audience
    authentication = {"loginEndpoint": f"{endpoint}/adfs", "audiences": [arm]}
    if request.query_params.get("api-version") == OLD_METADATA:
        old = {"galleryEndpoint": arm, "graphEndpoint": arm, "portalEndpoint": arm}
        return JSONResponse({**old, "authentication": authentication})
    hosts = {"storage": "blob", "keyVaultDns": "vault", "acrLoginServer": "azurecr", "sqlServerHostname": "sql"}
    body: dict[str, Any] = {
        "name": "Tunery",
        "authentication": {**authentication, "tenant": "adfs", "identityProvider": "ADFS"},
        "resourceManager": arm,
        # az refuses a cloud without them; there is nothing behind these addresses.
        **dict.fromkeys(("portal", "graph", "graphAudience", "gallery", "batch", "media"), arm),
        "suffixes": {name: f"{host}.localhost" for name, host in hosts.items()},
    }
    return JSONResponse(body)


def over_tls(request: Request) -> None:
    """Secrets aren't taken over a line that anybody can read."""
    if request.url.scheme != "https":
        raise NotFound("Sign-in works over TLS only: use the https address that `tunery env --az` prints.")


Tls = Depends(over_tls)


@router.get("/adfs/.well-known/openid-configuration", dependencies=[Tls])
def discovery(request: Request) -> Response:
    """OpenID Connect Discovery 1.0, 3."""
    tokens: Tokens = request.app.state.access.tokens
    oauth = f"{tokens.issuer}/oauth2"
    body = {
        "issuer": tokens.issuer,
        # MSAL wants an address here; there is no sign-in by redirect.
        "authorization_endpoint": f"{oauth}/authorize",
        "token_endpoint": f"{oauth}/token",
        "device_authorization_endpoint": f"{oauth}/devicecode",
        "jwks_uri": f"{tokens.issuer}/discovery/keys",
        "grant_types_supported": [
            "client_credentials",
            "password",
            "refresh_token",
            "urn:ietf:params:oauth:grant-type:device_code",
        ],
        "token_endpoint_auth_methods_supported": ["client_secret_post"],
        "response_types_supported": ["code", "id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [ALGORITHM],
    }
    return JSONResponse(body)


@router.get("/adfs/discovery/keys", dependencies=[Tls])
def keys(request: Request) -> Response:
    return JSONResponse(request.app.state.access.tokens.published())


async def form_body(request: Request) -> Form:
    """An application/x-www-form-urlencoded body. Raises SignInRefused for anything that isn't one."""
    body = await read_body(request, LONGEST_FORM)
    try:
        form = dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=50, errors="strict"))
    except ValueError as error:
        raise SignInRefused("The body isn't a form.", code="invalid_request") from error
    if any("\0" in value for value in form.values()):
        raise SignInRefused("The form has a NUL character in it.", code="invalid_request")
    return form


FormBody = Annotated[Form, Depends(form_body)]


@router.post("/adfs/oauth2/token", dependencies=[Tls])
async def token(request: Request, form: FormBody) -> Response:
    authority: Authority = request.app.state.authority
    return JSONResponse(await in_turn(request.app.state.sign_ins, lambda: authority.grant(form)), headers=NO_STORE)


@router.post("/adfs/oauth2/devicecode", dependencies=[Tls])
async def device_code(request: Request, form: FormBody) -> Response:
    authority: Authority = request.app.state.authority
    begun = await in_turn(request.app.state.sign_ins, lambda: authority.begin_device(form))
    page = f"{request.app.state.access.tokens.issuer}/oauth2/deviceauth"
    body = {
        "device_code": begun.code_hash,
        "user_code": begun.user_code,
        "verification_uri": page,
        "verification_url": page,
        "expires_in": CODE_SECONDS,
        "interval": POLL_SECONDS,
        "message": f"To sign in, open the page {page} and enter the code {begun.user_code}.",
    }
    return JSONResponse(body, headers=NO_STORE)


@router.get("/adfs/oauth2/deviceauth", dependencies=[Tls])
def device_page(user_code: str = "") -> Response:
    return _page(ASK, user_code)


@router.post("/adfs/oauth2/deviceauth", dependencies=[Tls])
async def approve(request: Request, form: FormBody) -> Response:
    authority: Authority = request.app.state.authority
    given = [form.get(name, "") for name in ("user_code", "username", "password")]
    try:
        await in_turn(request.app.state.sign_ins, lambda: authority.approve_device(*given))
    except (SignInRefused, SignInThrottled) as error:
        return _page(error.message, given[0], status=error.status)
    return HTMLResponse("<!doctype html><title>Tunery</title><p>Done. You can close this page.", headers=PAGE_HEADERS)


async def in_turn(turns: anyio.CapacityLimiter, work: Callable[[], ResultT]) -> ResultT:
    """One sign-in after another: checking a secret is costly on purpose, and must not take all threads."""
    if turns.statistics().tasks_waiting >= MOST_WAITING:
        raise SignInThrottled("Too many sign-ins at once. Please try again in a moment.", retry_after=5)
    return await anyio.to_thread.run_sync(work, limiter=turns)


def _page(message: str, code: str, status: int = 200) -> Response:
    shown = PAGE.substitute(message=html.escape(message), code=html.escape(code))
    return HTMLResponse(shown, status, PAGE_HEADERS)
