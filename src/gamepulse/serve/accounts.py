"""Routes: accounts, their passwords and second factors, signing in and out."""

from uuid import UUID

from litestar import Response, delete, get, post, put
from litestar.datastructures import Cookie

from gamepulse import accounts, asker, errors, limits, metrics
from gamepulse.serve import limited
from gamepulse.serve.describe import SIGNED_IN, Told, problems
from gamepulse.serve.reader import Asked, account_of, reader_of

_WRONG = (errors.WRONG_CREDENTIALS, errors.BUSY)
_CODE = (errors.TOTP_REQUIRED, errors.WRONG_CODE)


@post("/v1/accounts", responses=problems(errors.NAME_TAKEN, errors.PASSWORD_IS_NAME, *SIGNED_IN[3:], errors.BUSY, has_body=True))
async def create_account_route(request: Asked, data: accounts.NewAccount) -> accounts.CreatedAccount:
    """A new account. It sees what is public, until a studio's admin makes it a member."""
    reader = reader_of(request)
    await limited.spend(request, (limits.REGISTRATIONS, limited.client_of(request)))
    return await accounts.create(reader.account_pool, reader.passwords, data)


@get("/v1/account", responses=problems(*SIGNED_IN))
async def account_route(request: Asked) -> accounts.Account:
    """Who asks: name, studios and roles there, and whether there is a second factor."""
    return await accounts.find(reader_of(request).account_pool, await account_of(request))


@post(
    "/v1/account/password", status_code=204,
    responses=problems(*SIGNED_IN, *_WRONG, errors.PASSWORD_IS_NAME, has_body=True),
)  # fmt: skip
async def password_route(request: Asked, data: accounts.PasswordChange) -> None:
    """Another password. All other sign-ins end."""
    reader, found = reader_of(request), await account_of(request)
    await limited.spend(request, (limits.SIGN_INS_NAME, found.name))
    await accounts.change_password(reader.account_pool, reader.passwords, found, data)
    await limited.give_back(request, limits.SIGN_INS_NAME, found.name)


@post("/v1/account/totp", status_code=200, responses=problems(*SIGNED_IN, *_WRONG, *_CODE, has_body=True))
async def enrol_route(request: Asked, data: accounts.Enrolment) -> accounts.Totp:
    """A new secret for an authenticator, shown this once. It holds when it is confirmed with a code."""
    reader, found = reader_of(request), await account_of(request)
    await limited.spend(request, (limits.SIGN_INS_NAME, found.name))
    enrolled = await accounts.enrol(reader.account_pool, reader.passwords, found, data, reader.secret)
    await limited.give_back(request, limits.SIGN_INS_NAME, found.name)
    return enrolled


@put("/v1/account/totp", status_code=204, responses=problems(*SIGNED_IN, errors.NO_TOTP_PENDING, errors.WRONG_CODE, has_body=True))
async def confirm_route(request: Asked, data: accounts.Confirmation) -> None:
    """Confirm the new secret. All other sign-ins end: they have not shown it."""
    reader = reader_of(request)
    await accounts.confirm(reader.account_pool, await account_of(request), data.code, reader.secret)
    _forget(request)


_BEGUN = Told(accounts.Begun, generate_examples=False, description="Signed in", headers=("Set-Cookie",))


@post("/v1/sign-ins", responses={201: _BEGUN} | problems(*_WRONG, *_CODE, *SIGNED_IN[2:], has_body=True))
async def sign_in_route(request: Asked, data: accounts.Credentials) -> Response[accounts.Begun]:
    """Sign in: a token for `Authorization: Bearer …`; or, with `cookie`, a cookie that no script can read."""
    counted: metrics.Metrics = request.app.state.telemetry.metrics
    try:
        begun = await _sign_in(request, data)
    except errors.Problem as problem:
        counted.add(metrics.SIGN_INS, 1, problem.kind.code)
        raise
    counted.add(metrics.SIGN_INS, 1, "accepted")
    if not data.cookie:
        return Response(begun, status_code=201)
    token, begun.token = begun.token, None
    return Response(begun, status_code=201, cookies=[cookie(token, int(asker.LIFETIME.total_seconds()))])


async def _sign_in(request: Asked, data: accounts.Credentials) -> accounts.Begun:
    reader = reader_of(request)
    if data.cookie:
        asker.check_same_site(request.method, request.headers)
    await limited.spend(request, (limits.SIGN_INS_NAME, data.name), (limits.SIGN_INS_ADDRESS, limited.client_of(request)))
    begun = await accounts.sign_in(reader.account_pool, reader.passwords, data, reader.secret)
    await limited.give_back(request, limits.SIGN_INS_NAME, data.name)
    return begun


@get("/v1/sign-ins", responses=problems(*SIGNED_IN))
async def sign_ins_route(request: Asked) -> list[accounts.SignIn]:
    """The account's sign-ins, the latest first."""
    return await accounts.sign_ins(reader_of(request).account_pool, await account_of(request))


_ENDED = Told(None, description="Signed out", headers=("Set-Cookie",))


@delete("/v1/sign-ins/current", status_code=204, responses={204: _ENDED} | problems(*SIGNED_IN, errors.UNKNOWN_SIGN_IN))
async def sign_out_route(request: Asked) -> Response[None]:
    """Sign out. A cookie is taken away as well."""
    found = await account_of(request)
    await accounts.end_sign_in(reader_of(request).account_pool, found, found.sign_in_id)
    _forget(request)
    return Response(None, status_code=204, cookies=[cookie("", 0)] if asker.COOKIE in request.cookies else [])


@delete("/v1/sign-ins/{sign_in_id:uuid}", status_code=204, responses=problems(*SIGNED_IN, errors.UNKNOWN_SIGN_IN))
async def end_sign_in_route(request: Asked, sign_in_id: UUID) -> None:
    """End one of the account's sign-ins; every process refuses its token within 5 s."""
    await accounts.end_sign_in(reader_of(request).account_pool, await account_of(request), sign_in_id)


def _forget(request: Asked) -> None:
    """Of this process; the others look it up anew within 5 s."""
    given = asker.given(request.headers, request.cookies)
    if given is not None:
        reader_of(request).askers.forget(given.token)


def cookie(token: str | None, max_age_s: int) -> Cookie:
    """The one of a sign-in; 0 takes it away. `__Host-`: a browser takes it only with Secure and Path=/, and from no other host."""
    return Cookie(asker.COOKIE, value=token, path="/", secure=True, httponly=True, samesite="strict", max_age=max_age_s)


ROUTES = [
    create_account_route, account_route, password_route, enrol_route, confirm_route, sign_in_route, sign_ins_route, sign_out_route,
    end_sign_in_route,
]  # fmt: skip
