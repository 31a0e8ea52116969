"""Prefix-cache keys of vLLM for prompts with embeddings, so that a continued response is not read again.

vLLM 0.32 makes the key of a cache block of such a prompt from token ids and the bytes of its rows of
``prompt_embeds``, also those of token ids. A generated block has no such rows; when the response is submitted
again as part of the prompt, it has, so that the block is never found: everything that was written up to the thinking
budget was computed twice. Here the key has only the rows that are embeddings, and their places in the block.
Token ids give the same key whether they were read or written.

vLLM imports this module through the option ``worker_extension_cls``, in the process of its worker; importing it
changes every engine of that process. Engine and worker are one process for an engine in this process and for one GPU;
where they are not (tensor parallel), vLLM's keys stay.
"""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

from vllm.v1.core import kv_cache_utils
from vllm.v1.utils import tensor_data

REPLACED = "_gen_prompt_embeds_extra_hash_keys"
"""Function of ``vllm.v1.core.kv_cache_utils`` (0.32.0) that :func:`embedding_keys` replaces."""


class WorkerExtension:
    """Adds nothing to vLLM's worker; naming it as ``worker_extension_cls`` imports this module."""


def embedding_keys(request: Any, start_token_idx: int, end_token_idx: int) -> list[tuple[str, bytes]]:
    """The part of a block's key that stands for its embeddings; empty for a block of token ids alone.

    The token ids of the block and the key of the block before are in its key in any case.
    """
    rows, mask = request.prompt_embeds, request.prompt_is_token_ids
    if rows is None:
        return []
    end = min(end_token_idx, len(rows))
    places = [place for place in range(start_token_idx, end) if mask is None or not mask[place]]
    if not places:
        return []
    known = request._prompt_embeds_per_block_hashes
    block = start_token_idx, end_token_idx
    if block not in known:
        digest = hashlib.sha256(b"".join((place - start_token_idx).to_bytes(4, "little") for place in places))
        digest.update(tensor_data(rows[places]))
        known[block] = digest.digest()
    return [("prompt_embeds", known[block])]


# Only if this version of vLLM has the function in the known form: its own keys are right, they only miss more often.
if (own := getattr(kv_cache_utils, REPLACED, None)) is not None and (
    list(inspect.signature(own).parameters) == list(inspect.signature(embedding_keys).parameters)
):
    setattr(kv_cache_utils, REPLACED, embedding_keys)
