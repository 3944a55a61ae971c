"""What is made once for all who ask."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from litestar import MediaType

from gamepulse import health
from gamepulse.serve.describe import Description


async def test_all_who_ask_within_a_second_are_told_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    now, checked = 1000.0, 0

    async def check(*_: object) -> int:
        nonlocal checked
        checked += 1
        await asyncio.sleep(0)
        return checked

    monkeypatch.setattr(health, "_check_all", check)
    monkeypatch.setattr(health, "time", SimpleNamespace(monotonic=lambda: now))
    of: Any = health.Checks(None, None, None, [])  # type: ignore[arg-type]  # nothing is asked
    assert await asyncio.gather(*(of.document() for _ in range(10))) == [1] * 10
    now += health.KEPT_S - 0.01
    assert await of.document() == 1
    now += 0.01
    gone = asyncio.create_task(of.document())
    await asyncio.sleep(0)
    gone.cancel()  # others wait still
    assert await of.document() == 2


def test_the_description_is_rendered_once() -> None:
    request: Any = SimpleNamespace(app=SimpleNamespace(routes=[]), route_handler=SimpleNamespace(resolve_type_encoders=dict))
    description = Description(path="/openapi.json", media_type=MediaType.JSON)
    assert description.render(request, {"paths": {}}) is description.render(request, {"paths": {"/other": {}}})
