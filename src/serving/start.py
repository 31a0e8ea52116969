"""Entry of ``serve.py``: models are loaded, then the server runs until it is told to stop."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from src.common.errors import UserError
from src.common.log import get_logger
from src.prompts import Prompts, choose_prompts
from src.serving.config import KEY_VARIABLE, ServeConfig, read_serve_config

if TYPE_CHECKING:
    from src.generation.engine import Engine

log = get_logger(__name__)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Loaded:
    """Models of a server: one engine, and front ends (their frozen encoders are shared) and prompts by served
    name."""

    engine: Engine
    ears: Mapping[str, Any]
    prompts: Mapping[str, Prompts]


def serve(raw: Mapping[str, Any]) -> int:
    """Serve by the resolved configuration ``raw`` until a signal; running answers are finished first.

    Raises :class:`UserError` for settings or checkpoints that cannot be used.
    """
    config = read_serve_config(raw)
    if config.key is None and config.host not in LOOPBACK:
        log.warning("everybody who reaches %s:%d may ask: set api_key or %s", config.host, config.port, KEY_VARIABLE)
    if config.demo:
        from src.serving.page import need_gradio

        need_gradio()
    with bound(config.host, config.port) as place:
        loaded = load(config)
        from src.serving.server import Server

        app = make_app(loaded, config)
        log.info("http://%s:%d%s", config.host, config.port, " (page), /v1 below it" if config.demo else "/v1")
        server = Server(app, config)
        signal.signal(signal.SIGTERM, _end)  # uvicorn raises its signals again once it has finished
        with closing(loaded.engine), suppress(KeyboardInterrupt):
            server.run(sockets=[place])
    return 0 if server.started else 1


def bound(host: str, port: int) -> socket.socket:
    """A socket at the address, taken before models are loaded. Raises :class:`UserError` if it cannot be had."""
    place = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((host, port))
    except (OSError, OverflowError) as error:
        place.close()
        raise UserError(f"cannot serve at {host}:{port} ({error}); choose another by host= and port=") from error
    return place


def _end(number: int, frame: Any) -> None:
    """Unwind, so that the engine is closed."""
    raise KeyboardInterrupt


def make_app(loaded: Loaded, config: ServeConfig) -> Any:
    """The application over loaded models, with the page if it is asked for."""
    from src.serving.app import create_app
    from src.serving.metrics import Metrics
    from src.serving.service import Service

    async def open_service() -> Service:
        return Service(loaded.engine, loaded.ears, loaded.prompts, config, Metrics())

    app = create_app(open_service, config)
    if config.demo:
        from src.serving.page import mount_page

        mount_page(app, config, loaded.prompts)
    return app


def load(config: ServeConfig) -> Loaded:
    """Front ends of all served models, and the language model they share. Raises :class:`UserError`."""
    served = config.served()
    if (config.prompts or {}).get("name") is not None:
        choose_prompts(config.prompts)  # mistakes are reported before anything heavy is loaded
    import torch

    from src.generation.ears import Ears, front_end_dtypes
    from src.generation.vllm_core import prepare_environment
    from src.model.checkpoints import open_checkpoint, shared_lora
    from src.model.llm import load_chat_tokenizer

    prepare_environment()
    names = list(dict.fromkeys(name for members in served.values() for name in members))
    checkpoints = [open_checkpoint(name) for name in names]
    llm = config.model.llm or checkpoints[0].config.llm
    extras = {name: (each.name, each.extra) for name, each in zip(names, checkpoints, strict=True)}
    prompts = {
        name: choose_prompts(config.prompts, [extras[member] for member in members], llm)
        for name, members in served.items()
    }
    lora = shared_lora(checkpoints)
    trained_with = checkpoints[0].config
    revision = config.model.llm_revision or (trained_with.llm_revision if llm == trained_with.llm else None)
    load_chat_tokenizer(llm, revision)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    together = Ears.load(names, device, *front_end_dtypes(config.model))
    by_name = dict(zip(names, together.loaded, strict=True))
    ears = {name: Ears([by_name[member] for member in members]) for name, members in served.items()}
    if config.llm_url is not None and lora is not None:
        raise UserError("llm_url: the checkpoint has LoRA, which a separate vLLM does not know; leave llm_url out")
    engine = _engine(config, llm, revision, lora)
    log.info("serving %s", ", ".join(f"{name} (prompts {prompts[name].name})" for name in ears))
    return Loaded(engine, ears, prompts)


def _engine(config: ServeConfig, llm: str, revision: str | None, lora: Any) -> Engine:
    if config.llm_url is not None:
        from src.generation.engine import Engine
        from src.model.llm import load_tokenizer
        from src.serving.remote_core import RemoteCore, model_at

        tokenizer = load_tokenizer(llm, revision)
        at = model_at(config.llm_url, config.llm_name, config.llm_api_key)
        core = RemoteCore(at, llm, revision, tokenizer.eos_token_id)
        return Engine(core, tokenizer, config.limits.concurrent)
    from src.generation.vllm_core import VllmEngine
    from src.generation.vllm_lora import prepared_llm

    with prepared_llm(llm, revision, lora, config.engine.lora) as (source, its_revision, its_lora):
        return VllmEngine(source, config.engine, its_revision, its_lora)
