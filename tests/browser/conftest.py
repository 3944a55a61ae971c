"""The page of the real stack, with someone who plays."""

import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.batches import batch, event, report
from tests.conftest import Stack


@pytest.fixture(scope="module")
def page_url(stack: Stack) -> Iterator[str]:
    """Where the page is, while reports keep coming."""
    is_over = threading.Event()

    def send() -> None:
        headers = {"authorization": f"Bearer {stack.file['demo']['ingest_key']}"}
        with httpx.Client(base_url=stack.url("gamepulse"), headers=headers) as client:
            while not is_over.wait(0.5):
                client.post(
                    "/v1/reports", json=batch([report(n, region="page", loss=0.01) for n in range(5)], [event(9, region="page")])
                )

    thread = threading.Thread(target=send)
    thread.start()
    yield f"{stack.url('gamepulse')}/"
    is_over.set()
    thread.join()
