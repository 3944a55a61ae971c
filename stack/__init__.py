"""Runs all of GamePulse on one machine, without containers."""
