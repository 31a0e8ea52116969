"""Our defaults are the published ones, but for those that docs/fidelity.md lists with a reason."""

from __future__ import annotations

import pytest

from tests.support.published_defaults import differences, stated


def test_every_difference_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = differences(monkeypatch)
    listed = stated()
    assert found == listed, (
        f"not in the table: {sorted(found.items() - listed.items())}; "
        f"in the table only: {sorted(listed.items() - found.items())}"
    )


def test_every_published_key_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    _, missing = differences(monkeypatch)
    assert not missing
