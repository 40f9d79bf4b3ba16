"""An issuer of tokens as companies have one: a real server with a key set, on loopback."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from local.ports import LOOPBACK, free_ports

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

AUDIENCE = "postroom-tests"


def rsa_key(bits: int = 2_048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65_537, key_size=bits)


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def public_jwk(key: PrivateKey, name: str, **more: str) -> dict[str, Any]:
    """Return what a key set says of a key."""
    if isinstance(key, rsa.RSAPrivateKey):
        found = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        found = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**found, "kid": name, **more}


def signed(key: PrivateKey, name: str, claims: dict[str, Any]) -> str:
    """Return a token that says it is signed with the key of that name."""
    algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    return jwt.encode(claims, key, algorithm, headers={"kid": name})


class LocalIssuer:
    """Publishes keys and signs with them; may be stopped and started. Use it as a context manager.

    Attributes:
        keys: those that it signs with, by name.
        published: the key set, or whatever it answers with in place of one.
        moved_to: where it sends who asks, if anywhere.
        asked: how often somebody fetched the keys.
    """

    def __init__(self) -> None:
        self.keys: dict[str, PrivateKey] = {}
        self.published: Any = {"keys": []}
        self.moved_to: str | None = None
        self.asked = 0
        self._port = free_ports(1)[0]
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def keys_url(self) -> str:
        return f"{self.url}/keys"

    @property
    def env(self) -> dict[str, str]:
        """The settings of an API that takes its tokens."""
        return {
            "OIDC_ISSUER": self.url,
            "OIDC_AUDIENCE": AUDIENCE,
            "OIDC_JWKS_URL": self.keys_url,
        }

    def publish(self, **keys: PrivateKey) -> None:
        """Sign with these keys from now on, and no others."""
        self.keys = keys
        self.published = {"keys": [public_jwk(key, name) for name, key in keys.items()]}

    def claims(self, **more: Any) -> dict[str, Any]:
        """Return the claims of a token that is valid; those that are None are left out."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "mira",
            "scope": "openid documents:read",
            "iat": now,
            "exp": now + 60,
            **more,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, name: str, **more: Any) -> str:
        """Return a token that is signed with a key of that name."""
        return signed(self.keys[name], name, self.claims(**more))

    def start(self) -> None:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                if issuer.moved_to:
                    self.send_response(302)
                    self.send_header("Location", issuer.moved_to)
                    self.end_headers()
                    return
                body = json.dumps(issuer.published).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Be quiet."""

        self._server = ThreadingHTTPServer((LOOPBACK, self._port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
