"""The containers' fixtures, for what needs the makers' images."""

from tests.containers.conftest import stack  # noqa: F401 — a fixture
from tests.stack.conftest import stores  # noqa: F401 — a fixture
