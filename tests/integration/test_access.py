"""Every route, asked by every kind of asker: who may, and what the others are told."""

from typing import Any

import httpx
import msgspec
import pytest

from gamepulse import asker, database, errors
from tests.integration.conftest import Studio
from tests.people import PASSWORD, Person, first_admin, member

KINDS = ("nobody", "ended", "other", "viewer", "operator", "unenrolled", "admin")
"""Nobody; a token that is none; an admin of another studio; the studio's viewer, operator, admin without a second factor, and with one."""
type Answer = int | str
"""A status, or a problem's code."""


def game(*allowed: Answer, since: str = "viewer", is_public: bool = False) -> list[Answer]:
    """What each kind is told about a game, when `since` is the first role that may: `allowed` for all, or for each in turn."""
    unseen = ["role_required"] * 3 if is_public else ["unknown_game", "sign_in_ended", "unknown_game"]
    if is_public:
        unseen[:2] = ["sign_in_required", "sign_in_ended"]
    return [*unseen, *_member(since, *allowed)]


def of_studio(*allowed: Answer, since: str = "admin") -> list[Answer]:
    return ["sign_in_required", "sign_in_ended", "unknown_studio", *_member(since, *allowed)]


def account(*allowed: Answer) -> list[Answer]:
    return ["sign_in_required", "sign_in_ended", *(allowed * (5 // len(allowed)))]


def anyone(allowed: Answer) -> list[Answer]:
    return [allowed] * 7


def _member(since: str, *allowed: Answer) -> list[Answer]:
    roles = ["viewer", "operator", "admin"]
    told = list(allowed) * 4 if len(allowed) == 1 else list(allowed)
    may = [roles.index(role) >= roles.index(since) for role in ("viewer", "operator", "admin", "admin")]
    answers = [one if is_allowed else "role_required" for one, is_allowed in zip(told, may, strict=True)]
    if since == "admin":
        answers[2] = "totp_enrolment_required"
    return answers


NONE = "00000000-0000-4000-8000-000000000000"
WRONG = {"password": "not the right password"}
THRESHOLDS = {"thresholds": {"profile": "shooter"}}
STUDIO = "/v1/studios/{studio_id}"
RTT = {"type": "client", "rtt": 30, "quality": 1}  # of no game here: the setting is missing
ROUTES: list[tuple[str, str, Any, list[Answer]]] = [
    # what is public, and what is not
    *(
        (method, path.replace("{game}", name), body, told)
        for name in ("ours", "open")
        for method, path, body, allowed in (
            ("GET", "/v1/quality?game={game}", None, 200),
            ("GET", "/v1/quality/series?game={game}", None, 200),
            ("GET", "/v1/quality/compare?game={game}&a.region=seoul&b.region=tokyo", None, 200),
            ("GET", "/v1/live?game={game}", None, 200),
            ("GET", "/v1/games/{game}/sessions/" + NONE, None, "unknown_session"),
            ("GET", "/v1/games/{game}/servers/seoul-1/sessions", None, 200),
            ("GET", "/v1/games/{game}/networks/AS4766/sessions", None, 200),
            ("GET", "/v1/games/{game}/builds/1.0/sessions", None, 200),
        )
        for told in [game(allowed) if name == "ours" else anyone(allowed)]
    ),
    # what takes a role in the game's studio
    *(
        (method, path.replace("{game}", name), body, game(allowed, since=since, is_public=name == "open"))
        for name in ("ours", "open")
        for method, path, body, since, allowed in (
            ("POST", "/v1/games/{game}/player-sessions", {"player": "p"}, "operator", 200),
            ("GET", "/v1/games/{game}", None, "viewer", 200),
            ("PATCH", "/v1/games/{game}", THRESHOLDS, "operator", 200),
            ("PATCH", "/v1/games/{game}", THRESHOLDS | {"title": "Ours"}, "admin", 200),
            ("PATCH", "/v1/games/{game}", {"is_public": name == "open"}, "admin", 200),
            ("GET", "/v1/games/{game}/regions", None, "viewer", 200),
            ("PUT", "/v1/games/{game}/regions", [{"region": "seoul"}], "operator", 200),
            ("GET", "/v1/games/{game}/keys", None, "admin", 200),
            ("POST", "/v1/games/{game}/keys", {"kind": "client"}, "admin", 201),
            ("DELETE", "/v1/games/{game}/keys/999999", None, "admin", "unknown_key_id"),
            ("PATCH", "/v1/games/{game}", {"raw_retention_days": 3}, "admin", 200),
            ("POST", "/v1/games/{game}/exports", {"player": "p"}, "admin", 200),
            ("POST", "/v1/games/{game}/erasures", {"player": "p"}, "admin", 202),
            ("GET", "/v1/games/{game}/erasures/" + NONE, None, "admin", "unknown_erasure"),
        )
    ),
    # a studio
    ("POST", "/v1/games", {"studio_id": "{studio_id}", "game": "made"}, of_studio(201)),
    ("GET", STUDIO + "/members", None, of_studio(200)),
    ("POST", STUDIO + "/members", {"name": "no-such-account", "role": "viewer"}, of_studio("unknown_account")),
    ("PATCH", STUDIO + "/members/999999", {"role": "viewer"}, of_studio("unknown_member")),
    ("DELETE", STUDIO + "/members/999999", None, of_studio("unknown_member")),
    ("GET", STUDIO + "/audit", None, of_studio(200)),
    ("GET", "/v1/studios/999999/audit", None, ["sign_in_required", "sign_in_ended", *["unknown_studio"] * 5]),
    # the account itself
    ("GET", "/v1/account", None, account(200)),
    ("GET", "/v1/studios", None, account(200)),
    ("GET", "/v1/games", None, account(200)),
    ("GET", "/v1/sign-ins", None, account(200)),
    ("POST", "/v1/account/password", WRONG | {"new_password": PASSWORD}, account("wrong_credentials")),
    ("POST", "/v1/account/totp", WRONG, account("wrong_credentials")),
    ("PUT", "/v1/account/totp", {"code": "000000"}, account("no_totp_pending")),
    ("DELETE", "/v1/sign-ins/" + NONE, None, account("unknown_sign_in")),
    # anyone
    ("POST", "/v1/accounts", {"name": "viewer", "password": PASSWORD}, anyone("name_taken")),
    ("POST", "/v1/sign-ins", {"name": "no-such-account", "password": PASSWORD}, anyone("wrong_credentials")),
    ("POST", "/v1/reports", {}, ["missing_key", *["unknown_key"] * 6]),
    ("POST", "/api/sod/rtt", RTT, anyone("unknown_route")),
    ("POST", "/api/sod/rtt/v1", RTT, anyone("unknown_route")),
    ("GET", "/v1/meta", None, anyone(200)),
    ("GET", "/health", None, anyone(200)),
    ("GET", "/health/live", None, anyone(200)),
    ("GET", "/health/ready", None, anyone(200)),
    # the last: it ends the sign-ins of all
    ("DELETE", "/v1/sign-ins/current", None, account(204)),
]  # fmt: skip


@pytest.fixture
async def askers(studio: Studio, api: httpx.AsyncClient) -> dict[str, Person | None]:
    """One of each kind, and the studio's games."""
    admin = studio.admin
    other, _ = await first_admin(api, studio.database_url, "other", "Theirs")
    for name, is_public in (("ours", False), ("open", True)):
        wanted = {"studio_id": studio.studio_id, "game": name, "is_public": is_public}
        made = await api.post("/v1/games", json=wanted, headers=admin.headers)
        assert made.status_code == 201, made.text
    found = {"nobody": None, "ended": Person("ended", 0, "gpt_" + "x" * 43), "other": other, "admin": admin}
    for name, role in (("viewer", "viewer"), ("operator", "operator"), ("unenrolled", "admin")):
        found[name] = await member(api, admin, studio.studio_id, name, role)
    return found


async def _answer(client: httpx.AsyncClient, method: str, path: str, body: Any, person: Person | None) -> Answer:
    headers = person.headers if person else {}
    async with client.stream(method, path, headers=headers, json=body) as answer:
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            return answer.status_code
        await answer.aread()
    if answer.is_success or answer.headers["content-type"] != "application/problem+json":
        return answer.status_code
    problem = answer.json()
    says_how = answer.status_code == 401
    assert (problem["status"], answer.headers.get("www-authenticate")) == (answer.status_code, "Bearer" if says_how else None)
    code: str = problem["code"]
    return code


async def test_the_database_alone_does_not_decide_who_sees_a_private_game(api: httpx.AsyncClient, studio: Studio) -> None:
    wanted = {"studio_id": studio.studio_id, "game": "hidden"}
    assert (await api.post("/v1/games", json=wanted, headers=studio.admin.headers)).status_code == 201
    member = asker.Asker(studio.admin.account_id, "admin", {studio.studio_id: asker.Role.ADMIN}, has_totp=True)
    pool = await database.open_pool({"dsn": studio.database_url}, "account", size=1)
    try:
        assert (await asker.find_game(pool, "hidden", member)).slug == "hidden"
        with pytest.raises(errors.Problem, match="unknown_game"):  # as remembered from before it was a member
            await asker.find_game(pool, "hidden", msgspec.structs.replace(member, roles={}))
    finally:
        pool.terminate()


async def test_every_route_asked_by_everyone(api: httpx.AsyncClient, studio: Studio, askers: dict[str, Person | None]) -> None:
    studio_id, wrong, told_by = studio.studio_id, [], []
    for method, path, body, expected in ROUTES:
        sent = body | {"studio_id": studio_id} if isinstance(body, dict) and "studio_id" in body else body
        got = [await _answer(api, method, path.format(studio_id=studio_id), sent, askers[kind]) for kind in KINDS]
        told_by.append((method, path.partition("?")[0], got))
        wrong += [(method, path, kind, told, one) for kind, told, one in zip(KINDS, got, expected, strict=True) if told != one]
    assert wrong == [], "asked, told, expected"

    described = (await api.get("/docs/schema/openapi.json")).json()["paths"]
    for path, methods in described.items():
        for method, operation in methods.items():
            answers = [got for one, known, got in told_by if method.upper() == one and _fits(path, known)]
            assert answers, f"nobody asks {method} {path} here"
            assert (method, path, operation["security"]) == (method, path, _needed(answers))
            assert (method, path, {one for got in answers for one in got} - _described(operation)) == (method, path, set())


def _described(operation: dict[str, Any]) -> set[Answer]:
    """The statuses and the codes of problems that a description has."""
    schemas = [one["schema"] for answer in operation["responses"].values() for one in answer.get("content", {}).values()]
    codes = {code for schema in schemas if "allOf" in schema for code in schema["allOf"][1]["properties"]["code"]["enum"]}
    return codes | {int(status) for status in operation["responses"]}


def _needed(answers: list[list[Answer]]) -> list[dict[str, list[str]]]:
    """What a description must ask for, by what was answered."""
    nobody = {got[0] for got in answers}
    if "missing_key" in nobody:
        return [{"key": []}, {}]  # or in the body
    signed_in: list[dict[str, list[str]]] = [{"token": []}, {"cookie": []}]
    if "sign_in_required" in nobody:
        return signed_in
    return [{}, *signed_in] if any(len(set(got)) > 1 for got in answers) else []


def _fits(template: str, path: str) -> bool:
    parts, known = template.split("/"), path.split("/")
    return len(parts) == len(known) and all(part == one or part.startswith("{") for part, one in zip(parts, known, strict=True))
