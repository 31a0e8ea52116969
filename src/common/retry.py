"""Retries of work that met a network failure."""

from __future__ import annotations

import http.client
import time
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from src.common.errors import UserError, one_line
from src.common.log import get_logger

log = get_logger(__name__)
T = TypeVar("T")
_AGAIN = (408, 425, 429)
"""Request Timeout (RFC 9110, 15.5.9), Too Early (RFC 8470, 5.2) and Too Many Requests (RFC 6585, 4)."""
LONGEST_RETRY_AFTER = 3600.0
"""A server that asks for a longer wait in ``Retry-After`` is asked again after this many seconds."""
_FAILURES = {"TransportError", "IncompleteSnapshotError", "LocalEntryNotFoundError"}
"""Names of other libraries' errors that mean the same (httpx, huggingface_hub), so that none is imported here."""


@dataclass(frozen=True)
class RetryPolicy:
    """Number of attempts, and the waits between them in seconds (doubled up to the longest)."""

    attempts: int = 30
    first_wait: float = 5.0
    longest_wait: float = 1200.0
    timeout: float = 60.0


HUB_RETRIES = RetryPolicy(attempts=5, first_wait=1.0)
"""For data sets that a run needs at once; a name that is wrong is not tried again."""


def retrying(
    work: Callable[[], T], what: str, policy: RetryPolicy, pause: Callable[[float], object] = time.sleep
) -> T:
    """``work()``, again after each network failure; other errors pass through.

    The wait is at least what a server asks for in ``Retry-After``, up to :data:`LONGEST_RETRY_AFTER`; ``pause`` waits
    for that many seconds. Raises :class:`UserError` when the last attempt fails too; ``what`` is named in messages.
    """
    wait = policy.first_wait
    for attempt in range(1, policy.attempts + 1):
        try:
            return work()
        except Exception as error:
            if not is_network_failure(error):
                raise
            if attempt == policy.attempts:
                raise UserError(
                    f"{what}: {attempt} attempts failed, the last with {one_line(error, 200)}. Run it again to go on."
                ) from error
            seconds = max(wait, min(retry_after(error), LONGEST_RETRY_AFTER))
            log.warning("%s: %s; attempt %d, trying again in %.0f s", what, one_line(error, 200), attempt, seconds)
            pause(seconds)
            wait = min(2 * wait, policy.longest_wait)
    raise ValueError(f"{what}: needs at least one attempt, got {policy.attempts}")


def load_hub_dataset(name: str, **options: Any) -> Any:
    """``datasets.load_dataset``, again where the Hub fails on one of its requests.

    Raises what that raises, and :class:`UserError` when the last attempt met a network failure too.
    """
    from datasets import load_dataset

    return retrying(lambda: load_dataset(name, **options), f"data set {name}", HUB_RETRIES)


def is_network_failure(error: BaseException) -> bool:
    """Whether trying again can help: broken or refused connections, timeouts, busy or failing servers.

    Judged by the error or what it was raised from: ``datasets`` hides a failed request behind an error of its own.
    """
    kinds = (ConnectionError, TimeoutError, urllib.error.URLError, http.client.HTTPException)
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and cause not in chain:
        chain.append(cause)
    names = [{kind.__name__ for kind in type(each).__mro__} for each in chain]
    if any("OfflineModeIsEnabled" in each for each in names):  # a ConnectionError all the same
        return False
    for each in chain:
        # before its class: urllib's HTTPError is a URLError for a 404 too, which no further attempt will change
        status = status_of(each)
        if status is not None:
            return status >= 500 or status in _AGAIN
        if isinstance(each, kinds):
            return True
    return any(own & _FAILURES for own in names)


def status_of(error: BaseException) -> int | None:
    """HTTP status of an error of urllib, httpx or huggingface_hub; None if it has none."""
    status = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def retry_after(error: BaseException) -> float:
    """Seconds for which a server asks to wait in ``Retry-After`` (seconds or a date); 0 if it does not."""
    headers = getattr(getattr(error, "response", None), "headers", None) or getattr(error, "headers", None) or {}
    stated = str(headers.get("Retry-After") or "").strip()
    # a whole number or a date (RFC 9110, 10.2.3); a fraction is taken too. isdigit would let "²" through to float
    if stated.replace(".", "", 1).isdecimal():
        return float(stated)
    try:
        return max(0.0, parsedate_to_datetime(stated).timestamp() - time.time())
    except ValueError:
        return 0.0
