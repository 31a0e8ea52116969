"""Methods of transformers' Trainer that :class:`AlarmTrainer` overrides or depends on: their source is the known one.

The Trainer's private methods may change with any release. Where this test fails, read the upstream method and the
override again, adapt the override and its link, and record the new hash.
"""

from __future__ import annotations

import hashlib
import inspect

import pytest
import transformers
from transformers import Trainer

from src.training.trainer import AlarmTrainer

OVERRIDDEN = {
    "_get_grad_norm": {"5.19.0": "913ba6f52f074d10"},
    "_init_training_state": {"5.19.0": "8fbd17ebb7d3793d"},
    "_load_from_checkpoint": {"5.19.0": "4711d0506786db15"},
    "_load_optimizer_and_scheduler": {"5.19.0": "741032f57d6fb802"},
    "_load_rng_state": {"5.19.0": "d5ebdfc0a0884c4b"},
    "_prepare_for_training": {"5.19.0": "f55950593d7e10c0"},
    "_save_optimizer_and_scheduler": {"5.19.0": "c5ef974db69ab993"},
}
"""Private method -> version of transformers -> hash of its source."""
DEPENDED_ON = {
    "_inner_training_loop": {"5.19.0": "20ec4276e99fe7ae"},
    "_run_epoch": {"5.19.0": "ebe374933064ecd6"},
    "_save_checkpoint": {"5.19.0": "a9111e30faa99339"},
    "set_initial_training_values": {"5.19.0": "81697f5f3100a3ad"},
    "training_step": {"5.19.0": "e9760c8ee10308d5"},
}
"""Methods that call public overrides in an order that matters: ``save_model`` is the first that writes into a
checkpoint's folder, ``get_batch_samples`` gives whole steps, and the last of the initial values is the last step."""


def source_hash(method: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a method's source."""
    return hashlib.sha256(inspect.getsource(getattr(Trainer, method)).encode()).hexdigest()[:16]


@pytest.mark.parametrize("method", [*OVERRIDDEN, *DEPENDED_ON])
def test_the_source_of_an_upstream_method_is_known(method: str) -> None:
    known, found = (OVERRIDDEN | DEPENDED_ON)[method], source_hash(method)
    assert found in known.values(), (
        f"transformers {transformers.__version__} changed Trainer.{method} (hash {found}; known: {known}); read "
        f"again {'AlarmTrainer.' + method if method in OVERRIDDEN else 'the methods of AlarmTrainer that it calls'}"
    )


def test_every_private_override_is_recorded() -> None:
    private = {name for name in vars(AlarmTrainer) if name.startswith("_") and not name.startswith("__")}
    assert {name for name in private if hasattr(Trainer, name)} == set(OVERRIDDEN)


@pytest.mark.parametrize("method", OVERRIDDEN)
def test_an_override_names_the_upstream_lines(method: str) -> None:
    """The link beside an override leads to the method in the recorded version."""
    version = list(OVERRIDDEN[method])[-1]
    link = f"https://github.com/huggingface/transformers/blob/v{version}/src/transformers/trainer.py#L"
    text = inspect.getsource(getattr(AlarmTrainer, method))
    assert link in text
    if version == transformers.__version__:
        assert int(text.partition(link)[2].split()[0]) == inspect.getsourcelines(getattr(Trainer, method))[1]
