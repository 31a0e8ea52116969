"""train.py under FSDP2 on CPU processes, for tests: accelerate would take it on accelerators alone."""

from __future__ import annotations

import runpy
import sys
from typing import Any

from accelerate.state import DistributedType, PartialState

_init = PartialState.__init__


def _as_on_gpus(self: PartialState, *args: Any, **kwargs: Any) -> None:
    _init(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState.__init__ = _as_on_gpus  # type: ignore[method-assign]
    sys.path.insert(0, ".")
    sys.argv = ["train.py", *sys.argv[1:]]
    runpy.run_path("train.py", run_name="__main__")
