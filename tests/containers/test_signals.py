"""The signal matrix of tests/stack, asked of the containers."""

from tests.stack.test_signals import *  # noqa: F403
