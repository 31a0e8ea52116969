"""Upload of a folder to the Hugging Face Hub, with a check of its visibility and a timeout; tables for its card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from src.common.errors import UserError, error_text
from src.common.log import get_logger

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

log = get_logger(__name__)
SECONDS = 120.0
"""How long to wait for an answer of the Hub, whose client retries five times."""


def send_folder(
    folder: Path,
    repo: str,
    repo_type: Literal["model", "dataset"],
    private: bool,
    failure: str,
    public_refused: str | None = None,
    api: HfApi | None = None,
    **options: Any,
) -> CommitInfo:
    """Send the files of ``folder`` as one commit to ``repo`` (OWNER/NAME), which is created if it does not exist.

    The visibility of an existing repository is not changed; a warning says so if ``private`` differs. ``options`` go
    to the Hub's ``upload_folder``.

    Raises :class:`UserError` with ``failure`` and its ``{reason}`` when the Hub refuses or does not answer, and with
    ``public_refused``, if given, for a public repository that should be private.
    """
    from huggingface_hub import HfApi

    api = api or HfApi()
    with _timeout(SECONDS):
        try:
            api.create_repo(repo, repo_type=repo_type, private=private, exist_ok=True)
            is_private = api.repo_info(repo, repo_type=repo_type).private
            if private and is_private is False and public_refused is not None:
                raise UserError(f"{repo}: {public_refused}")
            if is_private not in (None, private):
                log.warning(
                    "%s: is %s on the Hub already and stays so, although it was to be %s; its visibility is changed "
                    "in the settings of the repository",
                    *(repo, *(("private", "public") if is_private else ("public", "private"))),
                )
            return api.upload_folder(repo_id=repo, folder_path=folder, repo_type=repo_type, **options)
        except Exception as error:
            # HTTP errors by their name: versions of the Hub's client use requests or httpx
            names = {kind.__name__ for kind in type(error).__mro__}
            if isinstance(error, UserError) or not (isinstance(error, (OSError, ValueError)) or "HTTPError" in names):
                raise
            reason = error_text(error)
            raise UserError(f"{repo}: {failure.format(reason=reason)}") from error


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Let the Hub's client time out; by default it waits for a silent server forever."""
    # upload_folder and create_repo take no timeout, and the default client has none (utils/_http.py)
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def with_timeout() -> Any:
        client = default_client_factory()
        client.timeout = seconds
        return client

    set_client_factory(with_timeout)
    try:
        yield
    finally:
        set_client_factory(default_client_factory)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with its header."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
