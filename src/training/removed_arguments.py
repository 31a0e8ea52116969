"""Keys of ``training_args`` that newer transformers no longer has: translated, or accepted with a line.

The published system was written for transformers 4.57; its users' commands and YAML name what that version had.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "no_cuda": "use_cpu",
    "push_to_hub_token": "hub_token",
}
"""Old key -> the key that means the same."""
WITHOUT_EFFECT = {
    "overwrite_output_dir": "files of an earlier run in the output folder are replaced either way; "
    "resume_from_checkpoint=true goes on with it",
    "save_safetensors": "checkpoints are always safetensors",
    "half_precision_backend": "mixed precision is always torch's autocast",
    "fp16_backend": "mixed precision is always torch's autocast",
    "fp16_opt_level": "mixed precision is always torch's autocast",
    "fsdp_min_num_params": "FSDP is chosen by the launcher: src/configs/accelerate/fsdp.yaml",
    "fsdp_transformer_layer_cls_to_wrap": "FSDP is chosen by the launcher: src/configs/accelerate/fsdp.yaml",
    "push_to_hub_model_id": "upload_model.py publishes a checkpoint",
    "push_to_hub_organization": "upload_model.py publishes a checkpoint",
    "include_tokens_per_second": "clips_per_second is always logged",
    "torchdynamo": "compile_layers=true compiles the transformer layers",
    **dict.fromkeys(
        (
            "use_mps_device", "jit_mode_eval", "use_ipex", "tpu_num_cores", "tpu_metrics_debug", "past_index",
            "use_legacy_prediction_loop", "include_inputs_for_metrics", "mp_parameters", "ray_scope",
            "dispatch_batches", "split_batches",
        ),
        "it has no effect here",
    ),
}  # fmt: skip
"""Old key -> what happens instead."""
_TRANSLATED = ("warmup_ratio", "adafactor", "group_by_length", "logging_dir")


PUBLISHED_DEFAULTS = {"overwrite_output_dir": True}
"""Arguments that the published configuration itself sets: accepted without a line."""


def translate_removed(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """``training_args`` without removed keys, and for each of those what it means here.

    ``logging_dir`` becomes ``TENSORBOARD_LOGGING_DIR``, as transformers itself does now. A key whose value is null,
    or that of the published configuration, is left out without a line.
    """
    values = {key: value for key, value in given.items() if key not in (*RENAMED, *WITHOUT_EFFECT, *_TRANSLATED)}
    notes = []
    for key, value in given.items():
        if key in values or value is None or value == PUBLISHED_DEFAULTS.get(key):
            continue
        if key in RENAMED:
            values[RENAMED[key]] = value
            notes.append(f"{key} is {RENAMED[key]} now")
        elif key in WITHOUT_EFFECT:
            notes.append(f"{key}: {WITHOUT_EFFECT[key]}")
        elif key == "warmup_ratio":
            if value and not values.get("warmup_steps"):
                values["warmup_steps"] = value
                notes.append(f"warmup_ratio={value} is warmup_steps={value} now")
            elif value:
                notes.append(f"warmup_ratio has no effect next to warmup_steps={values['warmup_steps']}")
        elif key == "adafactor":
            values |= {"optim": "adafactor"} if value else {}
            notes += ["adafactor is optim=adafactor now"] if value else []
        elif key == "group_by_length":
            values |= {"train_sampling_strategy": "group_by_length"} if value else {}  # read by step_plan
            notes += ["group_by_length is length_grouping=across_steps here"] if value else []
        elif key == "logging_dir":
            os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(value))
            notes.append(f"TensorBoard's files go to {os.environ['TENSORBOARD_LOGGING_DIR']}")
    return values, notes
