"""`python -m gamepulse.probe`: exits with 0 when this container's service is ready. An image without a shell has no other way."""

import sys
from http.client import HTTPConnection, HTTPException

from gamepulse import settings

TIMEOUT_S = 3


def main() -> int:
    """0 when the service answers 200 to /health/ready."""
    connection = HTTPConnection("127.0.0.1", settings.load().port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health/ready")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        print(f"no answer ({type(error).__name__})", file=sys.stderr)
        return 1
    print(status)
    return int(status != 200)


if __name__ == "__main__":
    sys.exit(main())
