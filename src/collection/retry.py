"""Work that is tried again after network failures."""

from __future__ import annotations

import http.client
import time
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from src.common.errors import UserError
from src.common.log import get_logger

log = get_logger(__name__)
T = TypeVar("T")
_AGAIN = (408, 425, 429)
_FAILURES = {"TransportError", "IncompleteSnapshotError", "LocalEntryNotFoundError"}
"""Names of other libraries' errors that mean the same (httpx, huggingface_hub), so that none is imported here."""


@dataclass(frozen=True)
class Patience:
    """How often a failed download is tried again, and the waits between in seconds (doubled up to the longest)."""

    attempts: int = 30
    first_wait: float = 5.0
    longest_wait: float = 1200.0
    timeout: float = 60.0


def retrying(work: Callable[[], T], what: str, patience: Patience) -> T:
    """``work()``, again after each network failure; other errors pass through.

    Raises :class:`UserError` when the last attempt fails too; ``what`` is named in messages.
    """
    wait = patience.first_wait
    for attempt in range(1, patience.attempts + 1):
        try:
            return work()
        except Exception as error:
            if not is_network_failure(error):
                raise
            if attempt == patience.attempts:
                raise UserError(
                    f"{what}: {attempt} attempts failed, the last with {_short(error)}. Run it again to go on."
                ) from error
            log.warning("%s: %s; attempt %d, trying again in %.0f s", what, _short(error), attempt, wait)
            time.sleep(wait)
            wait = min(2 * wait, patience.longest_wait)
    raise ValueError(f"{what}: needs at least one attempt, got {patience.attempts}")


def is_network_failure(error: BaseException) -> bool:
    """Whether trying again can help: broken or refused connections, timeouts, busy or failing servers."""
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in _AGAIN
    if isinstance(error, (ConnectionError, TimeoutError, urllib.error.URLError, http.client.HTTPException)):
        return True
    return bool({kind.__name__ for kind in type(error).__mro__} & _FAILURES)


def status_of(error: BaseException) -> int | None:
    """HTTP status of an error of urllib, httpx or huggingface_hub; None if it has none."""
    status = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
