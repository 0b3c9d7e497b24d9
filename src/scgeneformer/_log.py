"""Messages by scanpy's logger, which follow `scanpy.settings.verbosity`.

Importing scanpy takes a second. By default it shows no information, and only a user who has imported it can have
changed that: until then there is nothing to show.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime


def info(message: str, *, time: datetime | None = None, deep: str | None = None) -> datetime:
    """Log information, with the time since `time`, and `deep` where the verbosity is higher. Returns the time."""
    if "scanpy" not in sys.modules:
        return datetime.now(UTC)
    from scanpy import logging

    return logging.info(message, time=time, deep=deep)


def warning(message: str) -> datetime:
    """Log a warning. Returns the time."""
    from scanpy import logging

    return logging.warning(message)
