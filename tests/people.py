"""People who sign in: an account, a token, a second factor."""

import time
from dataclasses import dataclass
from typing import Any

import httpx
import pyotp

from tests.conftest import gamepulse

PASSWORD = "correct horse battery staple"


@dataclass
class Person:
    """An account that is signed in."""

    name: str
    account_id: int
    token: str
    secret: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    def code(self, later_steps: int = 0) -> str:
        """The one-time code of now, or of so many steps later: each is taken once."""
        return pyotp.TOTP(self.secret).at(int(time.time()), counter_offset=later_steps)


async def register(client: httpx.AsyncClient, name: str) -> Person:
    """A new account, signed in."""
    made = await client.post("/v1/accounts", json={"name": name, "password": PASSWORD})
    assert made.status_code == 201, made.text
    return await signed_in(client, name, made.json()["account_id"])


async def signed_in(client: httpx.AsyncClient, name: str, account_id: int = 0, **more: Any) -> Person:
    """An account that is there."""
    begun = await client.post("/v1/sign-ins", json={"name": name, "password": PASSWORD, **more})
    assert begun.status_code == 201, begun.text
    return Person(name, account_id, begun.json()["token"])


async def enrol(client: httpx.AsyncClient, person: Person) -> Person:
    """The person with a second factor."""
    told = await client.post("/v1/account/totp", json={"password": PASSWORD}, headers=person.headers)
    assert told.status_code == 200, told.text
    person.secret = told.json()["secret"]
    for _ in range(2):  # the oldest code that is taken, so that all later ones are left; another step may begin meanwhile
        done = await client.put("/v1/account/totp", json={"code": person.code(-1)}, headers=person.headers)
        if done.status_code != 401 or done.json()["code"] != "wrong_code":
            break
    assert done.status_code == 204, done.text
    return person


async def first_admin(client: httpx.AsyncClient, database_url: str, name: str, studio: str) -> tuple[Person, int]:
    """An admin with a second factor, made by the command line; and the studio's id."""
    gamepulse(f"admin create {name} --studio '{studio}'", database_url, stdin=PASSWORD)
    person = await enrol(client, await signed_in(client, name))
    account = (await client.get("/v1/account", headers=person.headers)).json()
    person.account_id = account["account_id"]
    return person, next(one["studio_id"] for one in account["studios"] if one["name"] == studio)


async def member(client: httpx.AsyncClient, admin: Person, studio_id: int, name: str, role: str) -> Person:
    """A new account that is a member before it first signs in (so that no process remembers it as none)."""
    made = await client.post("/v1/accounts", json={"name": name, "password": PASSWORD})
    added = await client.post(f"/v1/studios/{studio_id}/members", json={"name": name, "role": role}, headers=admin.headers)
    assert added.status_code == 201, added.text
    return await signed_in(client, name, made.json()["account_id"])
