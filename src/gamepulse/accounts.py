"""Accounts: names and passwords, sign-ins, and one-time codes (TOTP) as the second factor."""

import asyncio
import hashlib
import hmac
import secrets
import time
from base64 import b32encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Annotated
from uuid import UUID

import asyncpg
import msgspec
import pyotp
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from msgspec import Meta

from gamepulse import database, errors
from gamepulse.asker import IDLE, LIFETIME, TOKEN_PREFIX, Asker
from gamepulse.keys import hash_key

NAME_PATTERN = r"^[a-z0-9._-]{3,32}$(?!\n)"  # `$` alone would let a newline through at the end
NAME_WORDS = "a name: 3 to 32 of a–z 0–9 . _ -"
PASSWORD_LENGTH_MIN = 12
PASSWORD_LENGTH_MAX = 128
HASHERS = 2
"""Threads; each hash takes 19 MiB."""
HASHES_MAX = 16
"""Passwords being hashed and waiting for it: the last of them waits about a third of a second."""
SIGN_INS_MAX = 20
CODE_STEPS = 1
"""Steps of 30 s by which a code may be early or late (RFC 6238, 5.2)."""
_SQL = database.queries("accounts")

AccountName = Annotated[str, Meta(pattern=NAME_PATTERN)]
NewPassword = Annotated[str, Meta(min_length=PASSWORD_LENGTH_MIN, max_length=PASSWORD_LENGTH_MAX)]
OldPassword = Annotated[str, Meta(max_length=PASSWORD_LENGTH_MAX)]
Code = Annotated[str, Meta(pattern=r"^[0-9]{6}$(?!\n)")]


class NewAccount(msgspec.Struct):
    """Nothing is sent to anybody, so a name is all that is asked for."""

    name: AccountName
    password: NewPassword


class Credentials(msgspec.Struct):
    """`totp`: where the account is enrolled. `cookie`: for browsers; the token then comes as one, and not in the answer."""

    name: AccountName
    password: OldPassword
    totp: Code | None = None
    cookie: bool = False


class PasswordChange(msgspec.Struct):
    """The one of now, and the next."""

    password: OldPassword
    new_password: NewPassword


class Enrolment(msgspec.Struct):
    """`totp`: a code of now, where the account is enrolled already."""

    password: OldPassword
    totp: Code | None = None


class Confirmation(msgspec.Struct):
    """A code made of the new secret."""

    code: Code


class CreatedAccount(msgspec.Struct):
    """A new account."""

    account_id: int
    name: str


class StudioOfAccount(msgspec.Struct):
    """A studio and what the account is there."""

    studio_id: int
    name: str
    role: str


class Account(msgspec.Struct):
    """The asker's own."""

    account_id: int
    name: str
    has_totp: bool
    studios: list[StudioOfAccount]


class Begun(msgspec.Struct, omit_defaults=True):
    """A new sign-in; it ends at `expires_at`, and before when it is not used for 12 hours."""

    sign_in: UUID
    expires_at: datetime
    token: str | None = None


class SignIn(msgspec.Struct):
    """A sign-in of the asker's; `last_used_at` to within 5 minutes."""

    sign_in: UUID
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    is_current: bool


class Totp(msgspec.Struct):
    """What an authenticator needs: the secret in base32, and the same as otpauth:// for a QR code. SHA-1, 6 digits, 30 s."""

    secret: str
    uri: str


class Passwords:
    """Hashes passwords (argon2id with OWASP's parameters) in threads of its own, off the event loop."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._threads = ThreadPoolExecutor(HASHERS, "password")
        self._pending = 0
        self._nobody = self._hasher.hash(secrets.token_hex())

    async def hash(self, password: str) -> str:
        """Raises Problem BUSY."""
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, stored: str | None, password: str) -> None:
        """Checks it; None (there is no such account) takes as long. Raises Problem: WRONG_CREDENTIALS, BUSY."""
        is_right = await self._run(lambda: self._is_right(stored or self._nobody, password))
        if not is_right or stored is None:
            raise errors.Problem(errors.WRONG_CREDENTIALS)

    def close(self) -> None:
        """Nobody waits any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _is_right(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except VerifyMismatchError:
            return False

    async def _run[T](self, work: Callable[[], T]) -> T:
        if self._pending >= HASHES_MAX:
            raise errors.Problem(errors.BUSY)
        self._pending += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        future.add_done_callback(self._done)  # not when the asker is gone: the thread is still at it
        return await asyncio.shield(future)

    def _done(self, _: object) -> None:
        self._pending -= 1


async def create(pool: database.Pool, passwords: Passwords, wanted: NewAccount) -> CreatedAccount:
    """A new account. Raises Problem: NAME_TAKEN, PASSWORD_IS_NAME, BUSY."""
    _check(wanted.name, wanted.password, "/password")
    hashed = await passwords.hash(wanted.password)
    async with database.account(pool, None) as connection:
        account_id = await connection.fetchval(_SQL["create_account"], wanted.name, hashed)
    if account_id is None:
        raise errors.Problem(errors.NAME_TAKEN)
    return CreatedAccount(account_id, wanted.name)


async def find_id(pool: database.Pool, name: str) -> int | None:
    """Of the account of this name."""
    async with database.account(pool, None) as connection:
        found = await connection.fetchrow(_SQL["find_account"], name)
    return found["account_id"] if found else None


async def find(pool: database.Pool, asker: Asker) -> Account:
    """The asker's own."""
    assert asker.account_id is not None
    return Account(asker.account_id, asker.name, asker.has_totp, await studios(pool, asker.account_id))


async def studios(pool: database.Pool, account_id: int) -> list[StudioOfAccount]:
    """Those of which the account is a member."""
    async with database.account(pool, account_id) as connection:
        rows = await connection.fetch(_SQL["studios"])
    return [StudioOfAccount(row["studio_id"], row["name"], row["role"]) for row in rows]


async def sign_in(pool: database.Pool, passwords: Passwords, given: Credentials, totp_key: bytes) -> Begun:
    """A new sign-in; beyond SIGN_INS_MAX the oldest ends. Raises Problem: WRONG_CREDENTIALS, TOTP_REQUIRED, WRONG_CODE, BUSY."""
    async with database.account(pool, None) as connection:
        found = await connection.fetchrow(_SQL["find_account"], given.name)
    await passwords.verify(found["password_hash"] if found else None, given.password)
    assert found is not None
    account_id: int = found["account_id"]
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    async with database.account(pool, account_id) as connection:
        own = await _own(connection, account_id, found["password_hash"])
        if own["has_totp"]:
            await _use_code(connection, account_id, own, given.totp, totp_key)
        await connection.execute(_SQL["make_room"], account_id, IDLE, LIFETIME, SIGN_INS_MAX - 1)
        begun = await connection.fetchrow(_SQL["put_sign_in"], account_id, hash_key(token), LIFETIME)
        await _audit(connection, account_id, own["name"], "signed_in")
    assert begun is not None
    return Begun(begun["sign_in_id"], begun["expires_at"], token)


async def sign_ins(pool: database.Pool, asker: Asker) -> list[SignIn]:
    """The asker's own, the latest first."""
    assert asker.account_id is not None
    async with database.account(pool, asker.account_id) as connection:
        rows = await connection.fetch(_SQL["sign_ins"], asker.account_id, IDLE, LIFETIME)
    return [
        SignIn(row["sign_in_id"], row["created_at"], row["last_used_at"], row["expires_at"], row["sign_in_id"] == asker.sign_in_id)
        for row in rows
    ]


async def end_sign_in(pool: database.Pool, asker: Asker, sign_in_id: UUID | None) -> None:
    """End one of the asker's own. Raises Problem UNKNOWN_SIGN_IN."""
    assert asker.account_id is not None
    async with database.account(pool, asker.account_id) as connection:
        done = await connection.execute(_SQL["end_sign_in"], asker.account_id, sign_in_id)
        if done == "DELETE 0":
            raise errors.Problem(errors.UNKNOWN_SIGN_IN)
        await _audit(connection, asker.account_id, asker.name, "signed_out")


async def change_password(pool: database.Pool, passwords: Passwords, asker: Asker, change: PasswordChange) -> None:
    """All other sign-ins end. Raises Problem: WRONG_CREDENTIALS, PASSWORD_IS_NAME, BUSY."""
    assert asker.account_id is not None
    _check(asker.name, change.new_password, "/new_password")
    stored = await _verified(pool, passwords, asker.account_id, change.password)
    hashed = await passwords.hash(change.new_password)
    async with database.account(pool, asker.account_id) as connection:
        await _own(connection, asker.account_id, stored)
        await connection.execute(_SQL["set_password"], asker.account_id, hashed)
        await connection.execute(_SQL["end_sign_ins"], asker.account_id, asker.sign_in_id)
        await _audit(connection, asker.account_id, asker.name, "password_changed")


async def enrol(pool: database.Pool, passwords: Passwords, asker: Asker, given: Enrolment, totp_key: bytes) -> Totp:
    """A new secret, which holds once it is confirmed. Raises Problem: WRONG_CREDENTIALS, TOTP_REQUIRED, WRONG_CODE, BUSY."""
    assert asker.account_id is not None
    stored = await _verified(pool, passwords, asker.account_id, given.password)
    nonce = secrets.token_bytes(16)
    async with database.account(pool, asker.account_id) as connection:
        own = await _own(connection, asker.account_id, stored)
        if own["has_totp"]:
            await _use_code(connection, asker.account_id, own, given.totp, totp_key)
        await connection.execute(_SQL["set_totp_pending"], asker.account_id, nonce)
    totp = _totp(nonce, totp_key)
    return Totp(totp.secret, totp.provisioning_uri(name=asker.name, issuer_name="GamePulse"))


async def confirm(pool: database.Pool, asker: Asker, code: str, totp_key: bytes) -> None:
    """The pending secret holds from now on, and all other sign-ins end: they have not shown it.

    Raises Problem: NO_TOTP_PENDING, WRONG_CODE.
    """
    assert asker.account_id is not None
    async with database.account(pool, asker.account_id) as connection:
        own = await _own(connection, asker.account_id)
        if own["totp_pending"] is None:
            raise errors.Problem(errors.NO_TOTP_PENDING)
        step = _step_of(code, own["totp_pending"], totp_key, 0)
        await connection.execute(_SQL["confirm_totp"], asker.account_id, step)
        await connection.execute(_SQL["end_sign_ins"], asker.account_id, asker.sign_in_id)
        await _audit(connection, asker.account_id, asker.name, "totp_confirmed")


async def reset_password(pool: database.Pool, passwords: Passwords, account_id: int, wanted: NewAccount, actor: str) -> None:
    """For who has forgotten it: no sign-in is left, a second factor stays. Raises Problem: PASSWORD_IS_NAME, BUSY."""
    _check(wanted.name, wanted.password, "/password")
    hashed = await passwords.hash(wanted.password)
    async with database.account(pool, account_id) as connection:
        await connection.execute(_SQL["set_password"], account_id, hashed)
        await connection.execute(_SQL["end_sign_ins"], account_id, None)
        await _audit(connection, account_id, actor, "password_reset", wanted.name)


async def reset_totp(pool: database.Pool, account_id: int, name: str, actor: str) -> None:
    """For who has lost the device: neither secret nor sign-in is left."""
    async with database.account(pool, account_id) as connection:
        await connection.execute(_SQL["reset_totp"], account_id)
        await connection.execute(_SQL["end_sign_ins"], account_id, None)
        await _audit(connection, account_id, actor, "totp_reset", name)


async def _audit(connection: database.Connection, account_id: int, actor: str, action: str, about: str | None = None) -> None:
    await connection.execute(_SQL["audit"], account_id, actor, action, about)


def _check(name: str, password: str, pointer: str) -> None:
    if password.casefold() == name:
        raise errors.Problem(errors.PASSWORD_IS_NAME, pointers=[pointer])


async def _own(connection: database.Connection, account_id: int, verified: str | None = None) -> asyncpg.Record:
    """The account, locked. Raises Problem WRONG_CREDENTIALS when its password is no longer the one that was verified."""
    own = await connection.fetchrow(_SQL["own"], account_id)
    if own is None or (verified is not None and own["password_hash"] != verified):
        raise errors.Problem(errors.WRONG_CREDENTIALS)
    return own


async def _verified(pool: database.Pool, passwords: Passwords, account_id: int, password: str) -> str:
    """The stored hash of the password, which is right. No transaction is open while it is checked."""
    async with database.account(pool, account_id) as connection:
        stored: str = (await _own(connection, account_id))["password_hash"]
    await passwords.verify(stored, password)
    return stored


async def _use_code(connection: database.Connection, account_id: int, own: asyncpg.Record, code: str | None, key: bytes) -> None:
    if code is None:
        raise errors.Problem(errors.TOTP_REQUIRED)
    await connection.execute(_SQL["use_code"], account_id, _step_of(code, own["totp_nonce"], key, own["totp_step"]))


def _totp(nonce: bytes, key: bytes) -> pyotp.TOTP:
    """The secret is stored nowhere: it is made of what is stored and of what only the service knows."""
    secret = hashlib.blake2b(nonce, key=key, digest_size=20, person=b"totp").digest()
    return pyotp.TOTP(b32encode(secret).decode())


def _step_of(code: str, nonce: bytes, key: bytes, used: int) -> int:
    """The step of which this is the code, later than `used`. Raises Problem WRONG_CODE."""
    totp = _totp(nonce, key)
    now = int(time.time()) // totp.interval
    steps = [
        step
        for step in range(now - CODE_STEPS, now + CODE_STEPS + 1)
        if hmac.compare_digest(totp.generate_otp(step), code) and step > used
    ]
    if not steps:
        raise errors.Problem(errors.WRONG_CODE)
    return steps[0]
