"""What `make prove` does with what it sees. The looks at an account are in tests/deploy/emulated, as far as that goes."""

import asyncio
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError, WaiterError

from deploy import prove, trial
from deploy.account import Account
from deploy.config import read_config
from deploy.prove import NotHeld, Proof, asked_all_the_while, expect, old_tls_is_refused, tls_is_new_enough
from deploy.purge import Retained
from stack.settings import Problem
from tests.deploy.conftest import STAGING, Json
from tests.integration.rds import certificate, listening, server_context

ACCOUNT = Account(read_config(STAGING), session=None)


def raising(error: Exception) -> Any:
    def look(*_: Any) -> Json:
        raise error

    return look


def test_evidence_says_what_was_seen(tmp_path: Path) -> None:
    proof = Proof(ACCOUNT, cap_usd=1, usd_an_hour=1)
    proof.try_claim("it is there", lambda: {"tasks": 2})
    assert proof.write(tmp_path / "evidence.json")
    proof.try_claim("it is fast", raising(NotHeld("p99 is 3 s")))
    proof.try_claim("it is new", raising(Problem("the CDK failed")))
    assert not proof.write(tmp_path / "evidence.json")
    said = json.loads((tmp_path / "evidence.json").read_text())
    assert (said["environment"], said["account"], said["version"]) == ("staging", "111122223333", "0.1.0")
    assert [(one["claim"], one["held"], one["seen"]) for one in said["claims"]] == [
        ("it is there", True, {"tasks": 2}),
        ("it is fast", False, "p99 is 3 s"),
        ("it is new", False, "the CDK failed"),
    ]


@pytest.mark.parametrize(
    "error",
    [
        ClientError({"Error": {"Code": "InsufficientCapacity", "Message": "no room"}}, "RunTask"),
        WaiterError("DBInstanceAvailable", "no room", {}),
        httpx.ConnectTimeout("no room"),
        ssl.SSLError("no room"),
        subprocess.TimeoutExpired("no room", 600),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_be_looked_at_has_not_held(error: Exception) -> None:
    """The next claims are tried all the same."""
    proof = Proof(ACCOUNT, cap_usd=1, usd_an_hour=1)
    proof.try_claim("it is there", raising(error))
    [one] = proof.evidence
    assert one.held is False
    assert str(one.seen).startswith(type(error).__name__)
    assert "no room" in str(one.seen)


def test_beyond_what_it_may_cost_only_what_must_be_is_done() -> None:
    proof = Proof(ACCOUNT, cap_usd=10, usd_an_hour=4, began=time.monotonic() - 3 * 3600)
    assert 12 <= proof.spent_usd < 13
    proof.try_claim("a zone is lost", pytest.fail)
    proof.try_claim("it is taken away", lambda: {"left": 0}, always=True)
    assert [(one.held, one.seen) for one in proof.evidence] == [
        (None, "12.00 USD are spent, of 10.00 that it may cost"),
        (True, {"left": 0}),
    ]


def test_what_is_not_as_wanted_is_named() -> None:
    assert expect({"a": 1, "b": 2}, {"a": 1}) == {"a": 1, "b": 2}
    with pytest.raises(NotHeld, match=r"^a is 1, not 2, c is None, not True$"):
        expect({"a": 1, "b": 2}, {"a": 2, "b": 2, "c": True})


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done to an account, in order: AWS is not here."""
    order: list[str] = []
    monkeypatch.setattr(prove, "check", lambda *_: None)
    monkeypatch.setattr(prove, "deploy", lambda *_: order.append("deploy"))
    monkeypatch.setattr(prove, "destroy", lambda *_: order.append("destroy"))
    monkeypatch.setattr(Account, "stack_exists", lambda *_: False)
    left = [Retained("bucket", lambda: order.append("purge")), Retained("key", lambda: None)]

    def taken(found: list[Retained]) -> None:
        for one in list(found):
            one.take()
            left.remove(one)

    monkeypatch.setattr(
        prove, "retained", lambda *_, snapshots, since: [*left] if snapshots and since else pytest.fail("since ever")
    )
    monkeypatch.setattr(prove, "take", taken)

    def first(_: Account) -> Json:
        order.append("first")
        return {}

    monkeypatch.setattr(prove, "CLAIMS", {"first": first, "second": raising(NotHeld("no"))})
    return order


def run(to: Path, *, keep: bool = False, account: Account = ACCOUNT) -> bool:
    return prove.prove(account, lambda _: None, cap_usd=50, usd_an_hour=4, keep=keep, to=to)


def test_an_environment_is_made_looked_at_and_taken_away(done: list[str], tmp_path: Path) -> None:
    assert not run(tmp_path / "evidence.json")
    assert done == ["deploy", "first", "destroy", "purge"]
    claims = json.loads((tmp_path / "evidence.json").read_text())["claims"]
    assert [one["held"] for one in claims] == [True, True, False, True, True]
    assert claims[-1]["seen"] == {"taken": 2, "left": []}


def test_what_cannot_be_taken_away_is_named(done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove, "take", lambda _: None)
    run(tmp_path / "evidence.json")
    assert done == ["deploy", "first", "destroy"]
    assert json.loads((tmp_path / "evidence.json").read_text())["claims"][-1]["seen"] == "left is ['bucket', 'key'], not []"


def test_data_of_before_is_left(done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something stood already."""
    monkeypatch.setattr(Account, "stack_exists", lambda *_: "destroy" not in done)
    run(tmp_path / "evidence.json")
    assert done == ["deploy", "first", "destroy"]
    assert [one["held"] for one in json.loads((tmp_path / "evidence.json").read_text())["claims"]] == [True, True, False, True]


def test_it_is_taken_away_whatever_happens(done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove, "CLAIMS", {"first": raising(KeyError("a bug of ours"))})
    with pytest.raises(KeyError):
        run(tmp_path / "evidence.json")
    assert done == ["deploy", "destroy", "purge"]
    assert (tmp_path / "evidence.json").exists()


def test_what_was_not_deployed_is_not_looked_at_but_taken_away(
    done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prove, "deploy", raising(Problem("the CDK failed")))
    assert not run(tmp_path / "evidence.json")
    assert done == ["destroy", "purge"]
    claims = json.loads((tmp_path / "evidence.json").read_text())["claims"]
    assert [(one["held"], one["seen"]) for one in claims[:3]] == [
        (False, "the CDK failed"),
        (None, "it was not deployed"),
        (None, "it was not deployed"),
    ]


def test_where_nothing_can_be_deployed_nothing_is_destroyed(
    done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prove, "check", raising(Problem("another account")))
    with pytest.raises(Problem, match="another account"):
        run(tmp_path / "evidence.json")
    assert done == []


def test_a_stack_that_is_still_there_is_not_taken_away(done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edge = ("gamepulse-staging-edge", "us-east-1")
    monkeypatch.setattr(Account, "stack_exists", lambda _, name, region: "destroy" in done and (name, region) == edge)
    run(tmp_path / "evidence.json")
    claims = json.loads((tmp_path / "evidence.json").read_text())["claims"]
    assert [(one["held"], one["seen"]) for one in claims[-2:]] == [
        (False, "stacks_left is ['edge'], not []"),
        (False, "stacks are left: ['edge']"),
    ]
    assert "purge" not in done


def test_it_can_be_kept(done: list[str], tmp_path: Path) -> None:
    run(tmp_path / "evidence.json", keep=True)
    assert done == ["deploy", "first"]


def test_production_is_not_proven(done: list[str], tmp_path: Path) -> None:
    with pytest.raises(Problem, match="Production is not proven"):
        run(tmp_path / "evidence.json", account=Account(replace(ACCOUNT.config, environment="production"), session=None))
    assert done == []


@pytest.fixture
def k6(monkeypatch: pytest.MonkeyPatch) -> Json:
    """What k6 answers, and what PostgreSQL has before and after it: neither is here."""
    told: Json = {"exit": 0, "reports_safe": 900, "batches_lost": 0, "stored": [5, 905]}

    def run(_: list[str], *, env: dict[str, str], **__: Any) -> "subprocess.CompletedProcess[str]":
        told["env"] = env
        metrics = {name: {"values": {"count": told[name]}} for name in ("reports_safe", "batches_lost") if told[name]}
        if told["exit"] != 1:
            Path(env["SUMMARY"]).write_text(json.dumps({"metrics": metrics}))
        return subprocess.CompletedProcess([], told["exit"])

    monkeypatch.setattr("deploy.prove.subprocess.run", run)
    monkeypatch.setattr("deploy.trial.ingest_key", lambda _: "the key")
    monkeypatch.setattr("deploy.trial.stored", lambda _: told["stored"].pop(0))
    return told


def test_load_is_sent_with_the_game_s_key_and_balanced(k6: Json) -> None:
    seen = prove.load_is_answered(ACCOUNT)
    assert seen == {"exit": 0, "answered_as_safe": 900, "batches_lost": 0, "stored": 900}
    wanted = {
        "TARGET": "https://play.gamepulse.example",
        "ALLOW_HOST": "play.gamepulse.example",
        "GAME": "prove",
        "INGEST_KEY": "the key",
    }
    assert wanted.items() <= k6["env"].items()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"stored": [5, 904]}, "stored is 899, not 900"),
        ({"stored": [5, 906]}, "stored is 901, not 900"),
        ({"exit": 99}, "exit is 99, not 0"),
        ({"exit": 1}, "k6 did not run: it ended with 1"),
        ({"batches_lost": 2}, "batches_lost is 2, not 0"),
        ({"reports_safe": 0, "stored": [5, 5]}, "stored is 0, not 1"),
    ],
)
def test_load_that_is_not_as_it_should_be(k6: Json, changed: Json, told: str) -> None:
    k6 |= changed
    with pytest.raises(NotHeld, match=told):
        prove.load_is_answered(ACCOUNT)


def test_count_is_waited_for_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["(it wrote nothing)", "", '{"stored": 7}']
    monkeypatch.setattr("deploy.trial.time.sleep", lambda _: None)
    monkeypatch.setattr("deploy.trial.run_task", lambda *_, **__: "arn")
    monkeypatch.setattr("deploy.trial.log_of", lambda *_: lines.pop(0) if lines else "Error")
    assert trial.stored(ACCOUNT) == 7
    with pytest.raises(Problem, match="does not say how many: Error"):
        trial.stored(ACCOUNT)


class Answers(BaseHTTPRequestHandler):
    """200 for all but each third."""

    count = 0

    def do_GET(self) -> None:
        Answers.count += 1
        self.send_response(503 if Answers.count % 3 == 0 else 200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its own name)
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def test_what_is_not_answered_meanwhile_is_counted(url: str) -> None:
    with asked_all_the_while(url, every_s=0.01) as seen:
        while seen["asked"] < 30:
            time.sleep(0.01)
    assert seen["failed"] == seen["asked"] // 3
    with asked_all_the_while("http://127.0.0.1:9/", every_s=0.01) as seen:
        while seen["asked"] < 5:
            time.sleep(0.01)
    assert seen["failed"] == seen["asked"]


async def _nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


@pytest.mark.parametrize("is_old", [False, True])
def test_old_tls_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_old: bool) -> None:
    pair = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(pair[0]))  # whom the system trusts
    context = server_context(pair)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if is_old:
        with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
            context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with listening(_nothing, context) as port:
        if is_old:
            with pytest.raises(NotHeld, match=r"localhost still speaks TLS 1\.1"):
                tls_is_new_enough("localhost", port)
        else:
            seen = tls_is_new_enough("localhost", port)
            assert seen["version"] == "TLSv1.3"
            assert seen["tls_1_1"] in {"refused: alert 70", "refused: connection closed"}  # asyncio may close without the alert


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.close()


async def _babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1000)
    writer.write(b"HTTP/1.1 400 Bad Request")
    writer.close()


def test_what_is_no_tls_is_no_refusal() -> None:
    with listening(_hang_up) as port:
        assert old_tls_is_refused("127.0.0.1", port) in {"connection closed", "connection reset"}
    with listening(_babble) as port, pytest.raises(NotHeld, match=r"answers TLS 1\.1 with b.HTTP/1"):
        old_tls_is_refused("127.0.0.1", port)
