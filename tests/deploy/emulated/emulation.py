"""An account in which all types that the stacks have can be made."""

from collections.abc import Iterator
from contextlib import contextmanager

# Each module makes its types known.
from tests.deploy.emulated import data, edge, network, operations, services  # noqa: F401
from tests.deploy.emulated.account import Account, emulated_account
from tests.deploy.emulated.stacks import cloudformation


@contextmanager
def emulation(id: str, *, domain: str, hosted_zone_id: str) -> Iterator[Account]:
    with emulated_account(id, domain=domain, hosted_zone_id=hosted_zone_id) as account, cloudformation(account):
        yield account
