"""GamePulse: live, exact quality of players' connections."""

__version__ = "0.1.0"
