"""API keys: hashed at rest, compared in constant time, known by name."""

from __future__ import annotations

import hashlib
import hmac

from serve.config.cluster import Auth
from serve.errors import Unauthenticated

ANONYMOUS = "anonymous"


class Authenticator:
    """Decides who is calling. Without configured keys everybody is `anonymous`."""

    def __init__(self, auth: Auth) -> None:
        self.replace(auth)

    def replace(self, auth: Auth) -> None:
        """From now on these keys are known, and no others."""
        self._keys = [(key.name, bytes.fromhex(key.sha256)) for key in auth.keys]

    @property
    def needs_key(self) -> bool:
        """Whether keys are configured, so that nobody is anonymous."""
        return bool(self._keys)

    def client(self, authorization: str | None, api_key: str | None) -> str:
        """Name of the caller.

        Args:
            authorization: the header of that name, `Bearer KEY`.
            api_key: the header `X-API-Key`.

        Raises:
            Unauthenticated: keys are configured and none matches.
        """
        if not self._keys:
            return ANONYMOUS
        key = api_key
        if key is None and authorization is not None:
            scheme, _, token = authorization.partition(" ")
            key = token.strip() if scheme.lower() == "bearer" else None
        if not key:
            raise Unauthenticated("Send an API key, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.")
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        for name, known in self._keys:  # all of them, so that the time taken tells nothing
            if hmac.compare_digest(digest, known):
                found = name
        if found is None:
            raise Unauthenticated("The API key is not known.", code="invalid_api_key")
        return found


def hash_key(key: str) -> str:
    """SHA-256 in hexadecimal, for `auth.keys`. Keys are long and random, so no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()
