"""RDS's tokens: what an IAM role signs in to PostgreSQL with, instead of a password."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

from botocore.awsrequest import prepare_request_dict
from botocore.exceptions import BotoCoreError
from botocore.model import ServiceId
from botocore.session import Session
from botocore.signers import RequestSigner

from gamepulse.resilience import Policy

VALID_S = 900
"""To sign in with; a connection that is there stays."""
TIMEOUT_S = 2.0
"""For new credentials; connecting as a whole has database.CONNECT_TIMEOUT_S."""
_SCHEME = "https://"  # is signed, but no part of a token


class NoCredentials(OSError):
    """AWS has given us none: like a database that is away."""


class Tokens:
    """Makes tokens for the host and the user of `database_url`, with the credentials that botocore finds: in ECS, the task's.

    Signed here, nobody is asked: a token costs a millisecond, and now and then a request for new credentials.
    """

    def __init__(self, database_url: str, region: str) -> None:
        url = urlsplit(database_url)
        self._address = f"{url.hostname}:{url.port or 5432}"
        self._user = url.username
        self._region = region
        self._session = Session()
        self.policy = Policy("aws-credentials", (NoCredentials, TimeoutError), TIMEOUT_S)

    async def __call__(self) -> str:
        """A new one. Raises NoCredentials; Open or TimeoutError, which are OSErrors too, when AWS fails or is slow."""
        return await self.policy.call(lambda: asyncio.to_thread(self._make))

    def _make(self) -> str:
        try:
            credentials = self._session.get_credentials()
            if credentials is None:
                raise NoCredentials("AWS has given no credentials to sign in to PostgreSQL with")
            return self._signed(credentials)
        except BotoCoreError as error:
            raise NoCredentials(f"AWS has given no credentials to sign in to PostgreSQL with: {error}") from error

    def _signed(self, credentials: Any) -> str:
        emitter = self._session.get_component("event_emitter")
        signer = RequestSigner(ServiceId("rds-db"), self._region, "rds-db", "v4", credentials, emitter)
        request: dict[str, Any] = {"url_path": "/", "query_string": "", "headers": {}, "method": "GET", "context": {}}
        request["body"] = {"Action": "connect", "DBUser": self._user}
        prepare_request_dict(request, _SCHEME + self._address)
        url: str = signer.generate_presigned_url(
            request, "connect", region_name=self._region, expires_in=VALID_S, signing_name="rds-db"
        )
        return url.removeprefix(_SCHEME)
