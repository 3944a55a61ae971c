"""Routes: studios, their members, their audit log."""

from typing import Annotated

from litestar import delete, get, patch, post
from litestar.params import QueryParameter

from gamepulse import accounts, errors, studios
from gamepulse.asker import Role
from gamepulse.serve.describe import SIGNED_IN, STUDIO, problems
from gamepulse.serve.reader import Asked, Id, account_of, asker_of, member_of, reader_of

EntriesLimit = Annotated[int, QueryParameter(ge=1, le=studios.ENTRIES_MAX)]
Before = Annotated[int | None, QueryParameter(description="As the answer before says", ge=1, le=2**63 - 1)]


@get("/v1/studios", responses=problems(*SIGNED_IN))
async def studios_route(request: Asked) -> list[accounts.StudioOfAccount]:
    """The studios of which the account is a member."""
    found = await account_of(request)
    assert found.account_id is not None
    return await accounts.studios(reader_of(request).account_pool, found.account_id)


@get("/v1/studios/{studio_id:int}/members", responses=problems(*STUDIO))
async def members_route(request: Asked, studio_id: Id) -> list[studios.Member]:
    """The studio's members. Takes an admin."""
    await member_of(request, studio_id, Role.ADMIN)
    return await studios.members(reader_of(request).manage_pool, studio_id)


@post(
    "/v1/studios/{studio_id:int}/members",
    responses=problems(*STUDIO, errors.UNKNOWN_ACCOUNT, errors.ALREADY_MEMBER, errors.TOO_MANY_MEMBERS, has_body=True),
)
async def add_member_route(request: Asked, studio_id: Id, data: studios.NewMember) -> studios.Member:
    """Make an account a member. Takes an admin."""
    found = await member_of(request, studio_id, Role.ADMIN)
    return await studios.add_member(reader_of(request).manage_pool, found, studio_id, data)


@patch(
    "/v1/studios/{studio_id:int}/members/{account_id:int}",
    responses=problems(*STUDIO, errors.UNKNOWN_MEMBER, errors.LAST_ADMIN, has_body=True),
)
async def change_member_route(request: Asked, studio_id: Id, account_id: Id, data: studios.MemberChange) -> studios.Member:
    """Another role. Takes an admin."""
    found = await member_of(request, studio_id, Role.ADMIN)
    return await studios.change_member(reader_of(request).manage_pool, found, studio_id, account_id, data.role)


@delete(
    "/v1/studios/{studio_id:int}/members/{account_id:int}", status_code=204,
    responses=problems(*STUDIO, errors.UNKNOWN_MEMBER, errors.LAST_ADMIN),
)  # fmt: skip
async def remove_member_route(request: Asked, studio_id: Id, account_id: Id) -> None:
    """No member any more. Takes an admin; anyone may leave by themselves."""
    found = await asker_of(request)
    role = Role.VIEWER if account_id == found.account_id else Role.ADMIN
    studios.check_member(found, studio_id, role)
    await studios.remove_member(reader_of(request).manage_pool, found, studio_id, account_id)


@get("/v1/studios/{studio_id:int}/audit", responses=problems(*STUDIO))
async def audit_route(request: Asked, studio_id: Id, before: Before = None, limit: EntriesLimit = 100) -> studios.AuditLog:
    """Who did what, the latest first. Takes an admin."""
    await member_of(request, studio_id, Role.ADMIN)
    return await studios.audit_log(reader_of(request).manage_pool, studio_id, before, limit)


ROUTES = [studios_route, members_route, add_member_route, change_member_route, remove_member_route, audit_route]
