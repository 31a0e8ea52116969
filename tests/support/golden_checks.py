"""Every kind of recorded case by name: what ``scripts/check_goldens.py`` runs. A new kind is one line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.golden_adapters import check_adapters, check_fusion
from tests.support.golden_e2e import check_e2e
from tests.support.golden_encoders import check_encoders
from tests.support.golden_features import check_features
from tests.support.golden_multimodal import check_multimodal
from tests.support.golden_rules import CaseResult

CHECKS: dict[str, Callable[[Path], Iterator[CaseResult]]] = {
    "features": check_features,
    "encoders": check_encoders,
    "adapters": check_adapters,
    "fusion": check_fusion,
    "multimodal": check_multimodal,
    "e2e": check_e2e,
}
