"""Entry of ``serve.py``: loads the models, then runs the server until a signal stops it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src.common.errors import UserError
from src.common.log import get_logger
from src.prompts import Prompts, choose_prompts
from src.serving.config import KEY_VARIABLE, ServeConfig, read_serve_config

if TYPE_CHECKING:
    from src.inference.config import LlmSource
    from src.inference.engine import Engine
    from src.inference.ensemble import EmbedderEnsemble

log = get_logger(__name__)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Loaded:
    """Loaded models: one engine; audio embedders (which share frozen encoders) and prompts by model name."""

    engine: Engine
    ensembles: Mapping[str, EmbedderEnsemble]
    prompts: Mapping[str, Prompts]


def serve(raw: Mapping[str, Any]) -> int:
    """Serve with the resolved configuration ``raw`` until a signal; running answers are finished first.

    Raises :class:`UserError` for invalid settings or checkpoints.
    """
    config = read_serve_config(raw)
    if config.server is not None:
        from src.serving.page import run_page

        return run_page(config, config.server)
    if config.key is None and config.host not in LOOPBACK:
        log.warning(
            "anyone who can connect to %s:%d can use this server: set api_key or %s",
            config.host,
            config.port,
            KEY_VARIABLE,
        )
    page: AbstractContextManager[None] = nullcontext()
    if config.demo:
        from src.serving.page import import_gradio, page_process

        import_gradio()
        page = page_process(config)
    with bind_socket(config.host, config.port) as listening:
        loaded = load(config)
        from src.serving.app import Server

        app = make_app(loaded, config)
        log.info("http://%s:%d/v1", config.host, config.port)
        server = Server(app, config)
        # uvicorn raises its signals again at its end (Server.capture_signals): SIGTERM would end this process before
        # the engine is closed
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with closing(loaded.engine), page, suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
    return 0 if server.started else 1


def bind_socket(host: str, port: int) -> socket.socket:
    """Bind the address, before models are loaded. Raises :class:`UserError` if that fails."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    # a server that is started again would wait for its old connections to leave TIME_WAIT (socket(7))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        raise UserError(f"cannot serve at {host}:{port} ({error}); choose another by host= and port=") from error
    return listening


def make_app(loaded: Loaded, config: ServeConfig) -> Any:
    """Create the application over loaded models."""
    from src.serving.app import create_app
    from src.serving.service import Metrics, Service

    async def open_service() -> Service:
        return Service(loaded.engine, loaded.ensembles, loaded.prompts, config, Metrics())

    return create_app(open_service, config)


def load(config: ServeConfig) -> Loaded:
    """Load the audio embedders of all models and the language model they share. Raises :class:`UserError`."""
    served = config.served()
    if (config.prompts or {}).get("name") is not None:
        choose_prompts(config.prompts)  # report mistakes before anything heavy is loaded
    from src.inference.ensemble import EmbedderEnsemble
    from src.inference.load import check_embedder_widths, load_ensemble, resolve_llm
    from src.model.checkpoints import open_checkpoint
    from src.model.llm import load_chat_tokenizer

    names = list(dict.fromkeys(name for members in served.values() for name in members))
    checkpoints = [open_checkpoint(name) for name in names]
    source = resolve_llm(checkpoints, config.model)
    check_embedder_widths(checkpoints, source)
    extras = {name: (each.name, each.extra) for name, each in zip(names, checkpoints, strict=True)}
    prompts = {
        name: choose_prompts(config.prompts, [extras[member] for member in members], source.name)
        for name, members in served.items()
    }
    if config.llm_url is not None and source.lora is not None:
        raise UserError("llm_url: the checkpoint has LoRA, which a separate vLLM does not have; leave llm_url out")
    # reports an unusable template before models are loaded
    load_chat_tokenizer(source.name, source.revision, source.reasoning)
    by_name = dict(zip(names, load_ensemble(names, config.model).loaded, strict=True))
    ensembles = {name: EmbedderEnsemble([by_name[member] for member in members]) for name, members in served.items()}
    engine = _load_engine(config, source)
    log.info("serving %s", ", ".join(f"{name} (prompts {prompts[name].name})" for name in ensembles))
    return Loaded(engine, ensembles, prompts)


def _load_engine(config: ServeConfig, source: LlmSource) -> Engine:
    """vLLM in this process, or the one at ``config.llm_url``."""
    from src.inference.load import load_vllm

    if config.llm_url is None:
        return load_vllm(source, config.engine)
    from src.inference.engine import Engine
    from src.inference.http_backend import HttpBackend, find_remote_model
    from src.model.llm import load_tokenizer

    tokenizer = load_tokenizer(source.name, source.revision, source.reasoning)
    model = find_remote_model(config.llm_url, config.llm_name, config.llm_api_key)
    backend = HttpBackend(model, source.name, source.revision, tokenizer.eos_token_id)
    return Engine(backend, tokenizer, config.limits.concurrent)
