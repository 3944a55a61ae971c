"""A server that reads the body and answers 202: how much the load generator can ask for on this machine.

Run by `granian --interface rsgi bench.peers.nothing:application`.
"""

from typing import Any

HEADERS = [("content-type", "application/json")]


class Application:
    """An RSGI application."""

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Answer without a look at the body."""
        await protocol()
        protocol.response_bytes(202, HEADERS, b'{"accepted":20,"duplicate":0,"rejected":[],"next_report_s":5}')


application = Application()
