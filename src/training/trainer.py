"""transformers' Trainer, changed where this project differs: batches, loss over tokens, what a checkpoint holds."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_utils import EvalLoopOutput

from src.audio.features import AudioFeatureExtractor
from src.dataset.examples import Batch, Examples, collate_step
from src.dataset.sampler import StepPlan, StepSampler
from src.model.alarm import AlarmModel
from src.model.checkpoints import load_state, save_checkpoint
from src.model.config import ModelConfig
from src.model.splice import Turn
from src.prompts.choice import RECORD_KEY, prompt_record
from src.prompts.texts import Prompts
from src.training import sharded, zero
from src.training.encoder_cache import EncoderCache
from src.training.guard import FiniteGuard
from src.training.published_resume import load_published_state
from src.training.resume import is_published


@dataclass(frozen=True)
class Data:
    """Training examples (``None`` to evaluate only), named evaluation sets and groups of them for mean losses.

    ``skipped`` are response sets that were left out because they are not on this machine.
    """

    train: Examples | None
    evaluation: Mapping[str, Examples]
    groups: Mapping[str, Sequence[str]]
    skipped: tuple[str, ...] = ()


def _use_one_thread(worker: int) -> None:
    """Operations of a data worker run on one thread, also where vLLM ran in this process before.

    A forked worker must not use OpenMP's threads, which exist in its parent only: it would wait for them for ever.
    PyTorch asks for one thread by ``torch.set_num_threads``, which vLLM's CPU worker replaces by a function that does
    nothing (vllm 0.32, ``v1/worker/cpu_worker.py``).
    """
    torch._C.set_num_threads(1)


class AlarmTrainer(Trainer):
    """Trains what is not frozen of an :class:`AlarmModel`.

    What the Trainer takes for a batch is a whole optimizer step here: a list of micro-batches, cut as ``plan`` says,
    whose gradients add up. The loss of a step is the mean over the target tokens of all its micro-batches and
    processes together. A checkpoint holds adapters, fusion and separators, and what a resumed run needs. A loss or
    gradient that is not finite stops the run with the rows of its step, or leaves the step out and counts it.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: AlarmModel,
        args: TrainingArguments,
        data: Data,
        extractor: AudioFeatureExtractor,
        model_config: ModelConfig,
        plan: StepPlan,
        cache: EncoderCache | None = None,
        skip_not_finite: bool = False,
        prompts: Prompts | None = None,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            data_collator=collate_step,
            train_dataset=data.train,
            eval_dataset=dict(data.evaluation) or None,
        )
        self.remove_callback(PrinterCallback)
        if self.is_fsdp_enabled:  # autocast chooses the precision, operation by operation, here as elsewhere
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = None
        if self.is_deepspeed_enabled:  # the same; it would round the trained parameters and BatchNorm's statistics
            self.accelerator.state.deepspeed_plugin.deepspeed_config["bf16"] = {"enabled": False}
        self.model_accepts_loss_kwargs = True
        self.data = data
        self.extractor = extractor.to(args.device)
        self.model_config = model_config
        self.plan = plan
        self.cache = cache
        self.prompts = prompts
        self.guard = FiniteGuard(Path(args.output_dir), self.accelerator, skip_not_finite)
        for examples in (data.train, *data.evaluation.values()):
            if examples is not None:
                examples.known_clips = cache
        self.clips_seen = 0
        self.rows_replaced = 0
        self.train_steps: StepSampler | None = None
        self.last_evaluation: tuple[int, dict[str, float]] | None = None
        """Step and metrics of the newest evaluation of all sets."""
        self._eval_ready = False
        self.measure: Callable[[], dict[str, float]] | None = None
        """Speed since it was last asked, logged beside the training loss."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As usual, and the speed with it, so that trackers get it too."""
        if "loss" in logs and self.measure is not None:
            logs |= self.measure()
        super().log(logs, start_time)

    # ---- batches

    def get_train_dataloader(self) -> DataLoader:
        """Steps of this process; an epoch's order does not depend on how many processes there are."""
        assert self.data.train is not None
        self.train_steps = self._steps(self.data.train, self.plan, shuffle=True)
        return self._loader(self.data.train, self.train_steps)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Batches of this process of a named evaluation set, long clips first, every row once."""
        examples = self.data.evaluation[eval_dataset] if isinstance(eval_dataset, str) else eval_dataset
        plan = StepPlan(self.args.eval_batch_size, max_positions=self.plan.max_positions)
        return self._loader(examples, self._steps(examples, plan, shuffle=False))

    def _steps(self, examples: Examples, plan: StepPlan, shuffle: bool) -> StepSampler:
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        lengths = None if plan.grouping == "none" and not plan.max_positions else examples.lengths()
        return StepSampler(
            len(examples),
            plan,
            lengths,
            seed,
            shuffle,
            args.process_index,
            args.world_size,
            args.dataloader_drop_last,
        )

    def _loader(self, examples: Examples, steps: StepSampler) -> DataLoader:
        workers = self.args.dataloader_num_workers
        return DataLoader(
            examples,  # type: ignore[arg-type]
            batch_sampler=steps,  # type: ignore[arg-type]
            collate_fn=collate_step,
            num_workers=workers,
            worker_init_fn=_use_one_thread if workers else None,
            persistent_workers=self.args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
        )

    def _get_num_items_in_batch(self, batch_samples: list[list[Batch]], device: torch.device) -> Tensor:
        """Target tokens of one optimizer step, over its micro-batches and all processes."""
        batches = [batch for step in batch_samples for batch in step]
        self.clips_seen += sum(len(batch) for batch in batches) * self.args.world_size
        self.rows_replaced += sum(batch.num_replaced for batch in batches)
        total = torch.tensor(sum(batch.num_targets for batch in batches), device=device)
        return self.accelerator.gather(total).sum() if self.args.world_size > 1 else total

    def _prepare_inputs(self, inputs: Batch) -> dict[str, Any]:
        """Features on the training device, and turns, as :meth:`AlarmModel.forward` takes them."""
        pieces = zip(inputs.starts, inputs.mains, inputs.outputs, strict=True)
        return {
            "features": self._features(inputs),
            "turns": [Turn(start, main, outputs) for start, main, outputs in pieces],
            "keys": inputs.keys,
        }

    def _features(self, inputs: Batch) -> Mapping[str, Any] | None:
        if inputs.waveforms is None:
            return None
        if self.cache is None:
            return self.extractor([waveform for waveform in inputs.waveforms if waveform is not None])
        with self.autocast():
            return self.cache(inputs.clips, inputs.waveforms)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the Trainer's formula knows text only."""
        return 0

    # ---- loss

    def autocast(self) -> AbstractContextManager[None]:
        """Mixed precision as ``training_args`` say; DeepSpeed leaves it to its user."""
        if self.is_deepspeed_enabled and self.args.bf16:
            return torch.autocast(self.args.device.type, torch.bfloat16)
        return self.accelerator.autocast()

    @contextmanager
    def _gradients_stay(self, model: nn.Module) -> Iterator[None]:
        """Backward passes that neither exchange gradients nor, under DeepSpeed, take the optimizer's step."""
        state = self.accelerator.gradient_state
        with self.accelerator.no_sync(model):
            state._set_sync_gradients(False)
            try:
                yield
            finally:
                state._set_sync_gradients(True)

    def training_step(
        self, model: nn.Module, inputs: Sequence[Batch], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Gradients of all micro-batches of a step; processes exchange them once, with the last."""
        losses = []
        for place, batch in enumerate(inputs):
            last = place == len(inputs) - 1
            with nullcontext() if last else self._gradients_stay(model):
                losses.append(super().training_step(model, batch, num_items_in_batch))
        total = torch.stack(losses)
        if self.guard.check_losses(total, inputs, self.state.global_step + 1):
            return total.sum()
        return total.new_zeros(())

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm, once it is known to be finite; where such steps are skipped, nothing is left to apply."""
        norm = super()._get_grad_norm(model, grad_norm)
        if not self.guard.check_gradient(norm, self.state.global_step + 1):
            model.zero_grad(set_to_none=True)
        return norm

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Sum of the micro-batch over the step's tokens; processes average gradients, hence the factor."""
        with self.autocast():
            outputs = model(inputs)
        items = outputs["num_targets"] if num_items_in_batch is None else num_items_in_batch
        loss = outputs["loss_sum"] * self.args.world_size / items.clamp(min=1)
        return (loss, outputs) if return_outputs else loss

    # ---- evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss per token of every evaluation set, their means by group and over all."""
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if eval_dataset is None:
            means = _mean_losses(metrics, self.data, metric_key_prefix)
            self.log(dict(means))
            metrics.update(means)
            self.last_evaluation = (self.state.global_step, dict(metrics))
        return metrics

    @torch.no_grad()
    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Mean loss over all target tokens of a set, whatever the batches and processes."""
        if not self._eval_ready and not self.is_in_train:
            self.accelerator.prepare_model(self.model, evaluation_mode=True)  # mixed precision, when asked for
        self._eval_ready = True
        was_training = self.model.training
        self.model.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=self.args.device)
        # A process that has no row of its own keeps the others company, uncounted: sharded models run in step.
        counted = self.args.process_index < len(dataloader.dataset)  # type: ignore[arg-type]
        for batch in (batch for step in dataloader for batch in step):
            inputs = self._prepare_inputs(batch)
            with self.autocast():
                outputs = self.model(inputs)
            sums += counted * torch.stack(
                [outputs["loss_sum"], outputs["num_targets"], sums.new_tensor(len(batch))]
            ).to(sums)
        self.model.train(was_training)
        if self.args.world_size > 1:
            sums = self.accelerator.gather(sums[None]).sum(dim=0)
        loss, tokens, rows = sums.tolist()
        metrics = {f"{metric_key_prefix}_loss": loss / max(tokens, 1), f"{metric_key_prefix}_tokens": tokens}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=int(rows))

    # ---- checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As usual, but over no leftovers: what lies in the folder is of this step, or the folder is not whole."""
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save and folder.exists():
            shutil.rmtree(folder)
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write adapters, fusion and separators, LoRA, and the configuration that names the frozen parts."""
        extra: dict[str, Any] = {"step": self.state.global_step, "seed": self.args.seed}
        if self.prompts is not None:
            extra[RECORD_KEY] = prompt_record(self.prompts)
        model, folder = self._alarm(), output_dir or self.args.output_dir
        save_checkpoint(folder, model.front_end, self.model_config, extra, model.llm, write=self.args.should_save)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As usual; where the model is shared out, every process gives its part."""
        if self.shared_out:
            self._save(output_dir)
        else:
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """The same files whether the model is shared out or not."""
        if not self.shared_out:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        if self.is_deepspeed_enabled:
            zero.save_optimizer(self.model_wrapped, Path(output_dir), self.args.should_save)
        else:
            sharded.save_optimizer(self.model, self.optimizer.optimizer, Path(output_dir), self.args.should_save)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """From the files of any run, shared out or not, ours or the published system's."""
        if checkpoint is not None and is_published(Path(checkpoint)):
            load_published_state(
                Path(checkpoint), self.optimizer, self.lr_scheduler, self.state.global_step, self.shared_out
            )
            return
        if not self.shared_out or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        if self.is_deepspeed_enabled:
            zero.load_optimizer(self.model_wrapped, Path(checkpoint))
        else:
            sharded.load_optimizer(self.model, self.optimizer.optimizer, Path(checkpoint))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """As usual, but for DeepSpeed, which would look for a checkpoint of its own kind."""
        if not self.is_deepspeed_enabled:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """As usual; a published checkpoint's generators were of other programs and are left alone."""
        if checkpoint is None or not is_published(Path(checkpoint)):
            super()._load_rng_state(checkpoint)

    @property
    def shared_out(self) -> bool:
        """Whether the processes share the model or the optimizer's state (FSDP, DeepSpeed)."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Put a checkpoint's trained state into the model; once it is shared out, that has been done."""
        if self.is_fsdp_enabled and isinstance(next(self._alarm().parameters()), DTensor):
            return
        load_state(self._alarm().front_end, self._alarm().llm, Path(resume_from_checkpoint))

    def _alarm(self) -> AlarmModel:
        return self.accelerator.unwrap_model(self.model)


def _mean_losses(metrics: Mapping[str, float], data: Data, prefix: str) -> dict[str, float]:
    def mean(names: Sequence[str]) -> float:
        return sum(metrics[f"{prefix}_{name}_loss"] for name in names) / len(names)

    groups = {f"{prefix}_{group}_group_loss": mean(names) for group, names in data.groups.items() if names}
    return groups | {f"{prefix}_loss": mean(list(data.evaluation))}
