"""What the interface says of itself (OpenAPI), held against what it answers: as nobody, as a viewer, as an admin with a second factor.

schemathesis makes requests of the description: as it says and otherwise. No answer may be a 5xx, or one that is not described
(status, media type, headers, body).
"""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.batches import batch, report
from tests.conftest import INGEST_KEY, PATIENT, Service, complete, serve, smaller
from tests.people import Person, first_admin, member, register

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = 8
"""Of each operation, made up at random (but always the same)."""
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "unsupported_method", "allow_header_conformance", "described_headers", "described_lines",
)  # fmt: skip
CONFIG = """
[generation]
max-examples = {examples}
deterministic = true
database = "none"
no-shrink = true

[phases]
examples.enabled = false
stateful.enabled = false
coverage.enabled = {is_admin}

[[operations]]
include-path = "/v1/reports"
headers = {{ Authorization = "Bearer {key}" }}
parameters = {{ "body.game" = "demo" }}

[[operations]]
include-path = "/v1/reports"
phases.coverage.enabled = false

[[operations]]
include-path = "/v1/live"
max-stream-events = 1
"""
ENDS_THE_SIGN_IN = "/v1/sign-ins/current"
"""With it all others would be asked by nobody. tests/integration/test_accounts.py has it."""


@pytest.fixture
def contract(database_url: str, valkey_url: str, tmp_path: Path) -> Iterator[Service]:
    """Without 503: that may be an answer of any, and would be one when the machine stands."""
    with serve(
        database_url, valkey_url, tmp_path / "log", GAMEPULSE_ANCESTOR_GAME="demo", **smaller(tmp_path, *PATIENT)
    ) as running:
        yield running


@dataclass
class Known:
    """Who asks, and values that lead further than those that are made up."""

    viewer: Person
    admin: Person
    values: dict[str, Any]


@pytest.fixture
async def known(contract: Service, database_url: str) -> Known:
    async with httpx.AsyncClient(base_url=contract.url, timeout=20) as client:
        # The first accounts: whoever is changed under a made-up id is none of those who ask. And names that no other test has: what
        # is asked wrongly in them counts against their limit in Valkey, which all tests share.
        throwaways = [await register(client, f"throwaway-{n}") for n in range(3)]
        admin, studio_id = await first_admin(client, database_url, "contract-admin", "Demo studio")
        for one in throwaways:
            wanted = {"name": one.name, "role": "operator"}
            assert (await client.post(f"/v1/studios/{studio_id}/members", json=wanted, headers=admin.headers)).status_code == 201
        viewer = await member(client, admin, studio_id, "contract-viewer", "viewer")
        asked = await client.post("/v1/games/demo/erasures", json={"player": "p-2"}, headers=admin.headers)
        key = (await client.post("/v1/games/demo/keys", json={"kind": "client"}, headers=admin.headers)).json()
        session = str(uuid.uuid4())
        sent = batch([report(1, loss=0.1, jitter_ms=2.0)], session=session, player="p-1", build="1.0")
        stored = await client.post("/v1/reports", json=sent, headers={"authorization": f"Bearer {INGEST_KEY}"})
        assert stored.status_code == 202
        await complete(client)
    return Known(viewer, admin, {
        "path.game": "demo", "query.game": "demo", "path.studio_id": studio_id, "body.studio_id": studio_id,
        "path.account_id": throwaways[0].account_id, "path.session_id": session, "path.key_id": key["key_id"],
        "path.erasure_id": asked.json()["erasure_id"],
        "path.server": "seoul-1", "path.build": "1.0",
    })  # fmt: skip


@pytest.mark.timeout(600)
def test_every_answer_is_as_the_interface_says(contract: Service, known: Known, tmp_path: Path) -> None:
    _hold(contract, tmp_path / "nobody", {}, None)
    _hold(contract, tmp_path / "viewer", known.values, known.viewer)
    _hold(contract, tmp_path / "admin", known.values, known.admin, is_admin=True)
    told = httpx.get(f"{contract.url}/v1/account", headers=known.admin.headers).json()
    assert [one["role"] for one in told["studios"]] == ["admin"], "was no admin any more before the end"


def _hold(service: Service, folder: Path, values: dict[str, Any], asker: Person | None, *, is_admin: bool = False) -> None:
    """Fails with what is wrong. As an admin, each limit of each field is tried as well.

    But not of a batch's fields: test_schema.py and test_rubbish.py try many more.
    """
    folder.mkdir()
    config = folder / "schemathesis.toml"
    config.write_text(
        CONFIG.format(examples=EXAMPLES, key=INGEST_KEY, is_admin=json.dumps(is_admin))
        + "[parameters]\n" + "".join(f'"{name}" = {json.dumps(value)}\n' for name, value in values.items())
    )  # fmt: skip
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"), f"--config-file={config}", "run", "--no-color", "--warnings=off",
            f"--checks={','.join(CHECKS)}", "--continue-on-failure", f"--exclude-path={ENDS_THE_SIGN_IN}",
            *([f"--header=Authorization: Bearer {asker.token}"] if asker else []), f"{service.url}/docs/schema/openapi.json",
        ],
        capture_output=True, text=True, check=False, cwd=folder,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "tests.integration.described", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    if done.returncode or "No issues found" not in done.stdout:
        pytest.fail(f"as {folder.name}:\n{done.stdout}{done.stderr}", pytrace=False)
