"""How entry files end: a user's mistake becomes one line on standard error and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from src.common.errors import UserError
from src.common.log import setup_logging


def run_cli(main: Callable[[], int | None]) -> NoReturn:
    """Run ``main`` and exit: its return value (``None`` is 0), 1 or 2 for a ``UserError``, 130 for Ctrl-C."""
    setup_logging()
    try:
        code = main() or 0
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # whoever read the output has gone (`... | head`): nothing to tell, and the interpreter must not flush again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
