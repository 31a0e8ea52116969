"""Serve audio language models: an OpenAI-compatible API, and with demo=true a page to talk to.

In: checkpoints (default: those of the quickstart). Out: http://HOST:PORT/v1/chat/completions and friends; see
docs/serving.md. Ctrl-C finishes the running answers.

    python serve.py demo=true
    python serve.py checkpoint_name=Blinorot/ALARM-CA host=0.0.0.0 api_key=SECRET
"""

from __future__ import annotations

from typing import Any

from src.common.hydra_cli import hydra_cli


def main(config: dict[str, Any]) -> int:
    """Run with a resolved configuration."""
    from src.serving.start import serve

    return serve(config)


if __name__ == "__main__":
    hydra_cli("serve", main)
