"""How programs of the command line start."""

from __future__ import annotations

import os
import subprocess
import sys


def test_threads_of_a_training_spin_briefly_unless_the_environment_says_otherwise() -> None:
    code = (
        "import os; from src.common.cli import set_wait_policy; set_wait_policy(True); "
        "print(os.environ['OMP_WAIT_POLICY'], os.environ.get('GOMP_SPINCOUNT'))"
    )
    plain = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}

    def told(**more: str) -> str:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=plain | more, check=True, capture_output=True, text=True).stdout.strip()

    assert told() == "PASSIVE 5000"
    assert told(GOMP_SPINCOUNT="7") == "PASSIVE 7"
    assert told(OMP_WAIT_POLICY="ACTIVE") == "ACTIVE None"
