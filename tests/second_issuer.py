"""An OpenID Connect issuer on this machine: discovery, keys, tokens. What it signs and says, tests decide."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

AUDIENCE = "api://tunery"


class SecondIssuer:
    def __init__(self, url: str) -> None:
        self.url = url
        self.key = RSAKey.generate_key(2048, auto_kid=True)
        self.fetches = 0
        self.broken = False
        self.named = url

    def answer(self, path: str) -> Any:
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.named, "jwks_uri": f"{self.url}/keys"}
        self.fetches += 1
        return KeySet([self.key]).as_dict(private=False)

    def rotate(self) -> None:
        self.key = RSAKey.generate_key(2048, auto_kid=True)

    def token(self, *, key: RSAKey | None = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        now = int(time.time())
        stamped = {"iss": self.url, "aud": AUDIENCE, "oid": "oid-1", "iat": now, "exp": now + 300, **claims}
        stamped = {name: value for name, value in stamped.items() if value is not None}
        return jwt.encode({"alg": "RS256", "kid": self.key.kid, **(header or {})}, stamped, key or self.key)


@contextlib.contextmanager
def second_issuer() -> Iterator[SecondIssuer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(issuer.answer(self.path)).encode()
            self.send_response(500 if issuer.broken else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer = SecondIssuer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
