"""transformers' Trainer with this project's batches, token-weighted loss, checkpoints and resuming.

Private methods of the Trainer are overridden only where it has no public hook. Each links to the upstream method at
the version it was written for; ``tests/training/test_upstream.py`` fails when the source of one of them changes.
"""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from src.common.files import json_lines
from src.common.log import get_logger
from src.dataset.examples import Batch, ExampleDataset, collate_step
from src.dataset.sampler import StepPlan, StepSampler
from src.model.alarm import AlarmModel
from src.model.checkpoints import load_state, save_checkpoint
from src.model.config import ModelConfig
from src.model.splice import TokenizedTurn
from src.prompts.prompt_sets import RECORD_KEY, prompt_record
from src.prompts.texts import Prompts
from src.training import deepspeed_state, fsdp_state
from src.training.data import TrainingData, mean_losses
from src.training.encoder_cache import EncoderCache
from src.training.nonfinite_guard import NonfiniteGuard
from src.training.overlap import EncodeAhead
from src.training.published_resume import load_published_state
from src.training.resume import RowsDone, check_stream, is_published, read_rows_done, write_rows_done

log = get_logger(__name__)


def _use_one_thread(worker: int) -> None:
    """Restrict the operations of a data worker to one thread, also where vLLM ran in this process before."""
    # A forked worker would wait forever for OpenMP threads, which exist in its parent only. PyTorch therefore calls
    # torch.set_num_threads(1) in a worker, but vLLM's CPU worker replaces that function by one that does nothing
    # (vllm 0.32, v1/worker/cpu_worker.py).
    torch._C.set_num_threads(1)


class AlarmTrainer(Trainer):
    """Trains the parameters of an :class:`AlarmModel` that are not frozen.

    A batch of the Trainer is a whole optimizer step here: a list of micro-batches, cut as ``plan`` says, whose
    gradients add up. The loss of a step is the mean over the target tokens of all its micro-batches and processes. A
    checkpoint contains adapters, fusion, separators and LoRA, and the state that a resumed run needs. A loss or
    gradient that is not finite stops the run and records the rows of the step, or the step is skipped and counted.
    """

    # compute_loss divides by the target tokens of the whole step, so that the Trainer must not divide once more:
    # https://github.com/huggingface/transformers/blob/v5.19.0/src/transformers/trainer.py#L2086
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: AlarmModel,
        args: TrainingArguments,
        data: TrainingData,
        extractor: AudioFeatureExtractor,
        model_config: ModelConfig,
        plan: StepPlan,
        cache: EncoderCache | None = None,
        skip_not_finite: bool = False,
        prompts: Prompts | None = None,
        overlap_encoders: bool = False,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            data_collator=collate_step,
            train_dataset=data.train,
            eval_dataset=dict(data.evaluation) or None,
        )
        self.remove_callback(PrinterCallback)  # prints dictionaries; RunCallback logs a line
        # Autocast chooses the precision of each operation, as without sharding. The policies of FSDP and DeepSpeed
        # would round the trained parameters and the statistics of BatchNorm to bfloat16.
        if self.is_fsdp_enabled:
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = None
        if self.is_deepspeed_enabled:
            self.accelerator.state.deepspeed_plugin.deepspeed_config["bf16"] = {"enabled": False}
        self.data = data
        self.extractor = extractor.to(args.device)
        self.model_config = model_config
        self.plan = plan
        self.cache = cache
        self.prompts = prompts
        self.guard = NonfiniteGuard(Path(args.output_dir), self.accelerator, skip_not_finite)
        for examples in (data.train, *data.evaluation.values()):
            if examples is not None:
                examples.known_clips = cache
        self.ahead: EncodeAhead | None = None
        if overlap_encoders:
            self.ahead = EncodeAhead(model.audio_embedder, self._prepare_inputs_of, self.autocast, args.device)
        self.clips_seen = 0
        self.rows_replaced = 0
        self.positions = 0
        """Positions of training batches that the LLM of this process has computed, padding included."""
        self.train_steps: StepSampler | None = None
        self.epoch_began_at = 0
        """Step count at which this run began, or continued, the current epoch."""
        self._rows_done: RowsDone | None = None
        self._steps_passed = 0
        """Steps of the current size that the rows of the checkpoint amount to; see :meth:`continue_from`."""
        self._resumed_at: int | None = None
        self.last_evaluation: tuple[int, dict[str, float]] | None = None
        """Step and metrics of the newest evaluation of all sets."""
        self._eval_ready = False
        self._parts: tuple[str, ...] = ()
        """Names of the objective's parts, which evaluation found."""
        self.measure: Callable[[], dict[str, float]] | None = None
        """Speed since the last call, logged with the training loss."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the speed to a training loss, so that trackers receive it too."""
        if "loss" in logs and self.measure is not None:
            logs |= self.measure()
        super().log(logs, start_time)

    # ---- batches

    def get_train_dataloader(self) -> DataLoader:
        """Steps of this process; an epoch's order does not depend on the number of processes."""
        assert self.data.train is not None
        self.train_steps = self._steps(self.data.train, self.plan, shuffle=True)
        if self._rows_done is not None:
            epoch, steps = self._rows_done.epoch, 0
            if not self.args.ignore_data_skip:
                epoch, steps = self.train_steps.resume(epoch, self._rows_done.parts)
            self._steps_passed = epoch * len(self.train_steps) + steps
        return self._loader(self.data.train, self.train_steps)

    def continue_from(self, checkpoint: Path, step: int) -> None:
        """Continue after the rows of a checkpoint of ``step`` steps, even if steps have another size now.

        ``max_steps`` still counts all steps and ``num_train_epochs`` all rows: with epochs, the number of the last
        step is the steps done plus as many steps of the new size as the remaining rows need.
        """
        assert self.data.train is not None
        steps = self._steps(self.data.train, self.plan, shuffle=True)
        check_stream(checkpoint, self._stream_record(steps))
        self._rows_done, self._resumed_at = read_rows_done(checkpoint, steps), step
        if self._rows_done is None:
            return
        rows = self._rows_done.parts[-1].rows if self._rows_done.parts else steps.step_rows
        if rows != steps.step_rows and self.is_world_process_zero():
            log.warning(
                "%s: its steps had %d rows, those of this run have %d (processes: %d, rows of each: %d); training "
                "continues after row %d of %d of epoch %d, and steps are counted from %d",
                *(checkpoint, rows, steps.step_rows, self.args.world_size, self.plan.step_clips),
                *(self._rows_done.rows, len(self.data.train), self._rows_done.epoch + 1, step),
            )

    def _stream_record(self, steps: StepSampler) -> dict[str, Any]:
        """Record of the data order for :func:`check_stream`: the seed, and a checksum of rows in shards."""
        digest = None if self.data.train is None else self.data.train.rows.digest()
        return {"seed": steps.seed} if digest is None else {"digest": digest, "seed": steps.seed}

    def last_step(self, steps_per_epoch: int) -> int:
        """Number of the step at which training ends."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        steps = math.ceil(self.args.num_train_epochs * steps_per_epoch)
        if self._rows_done is None or self._resumed_at is None:
            return steps
        return self._resumed_at + max(0, steps - self._steps_passed)

    def set_initial_training_values(self, args: TrainingArguments, dataloader: DataLoader) -> Any:
        """Adjust epochs and last step for a run that continues with steps of another size."""
        values = list(super().set_initial_training_values(args, dataloader))
        if self._rows_done is not None and self._resumed_at is not None:
            per_epoch = values[1]
            values[-1] = self.last_step(per_epoch)
            values[0] = math.ceil((values[-1] - self._resumed_at + self._steps_passed) / per_epoch)
        return tuple(values)

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, num_train_epochs: int, checkpoint: Any, trial: Any
    ) -> tuple[int, int]:
        """Epoch and step of it at which training continues, by the rows that are done."""
        # transformers 5.19.0 divides the checkpoint's step count by this run's steps per epoch, which is wrong when
        # a step has another size than in the run that wrote the checkpoint:
        # https://github.com/huggingface/transformers/blob/v5.19.0/src/transformers/trainer.py#L1664
        place = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial
        )
        if self._rows_done is None:
            return place
        place = divmod(self._steps_passed, num_update_steps_per_epoch)
        self.state.epoch = place[0] + place[1] / num_update_steps_per_epoch
        return place

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Batches of this process of a named evaluation set: long clips first, every row once."""
        examples = self.data.evaluation[eval_dataset] if isinstance(eval_dataset, str) else eval_dataset
        plan = StepPlan(self.args.eval_batch_size, max_positions=self.plan.max_positions, packed=self.plan.packed)
        return self._loader(examples, self._steps(examples, plan, shuffle=False))

    def _steps(self, examples: ExampleDataset, plan: StepPlan, shuffle: bool) -> StepSampler:
        args = self.args
        return StepSampler(
            len(examples),
            plan,
            lengths=None if plan.grouping == "none" and not plan.max_positions else examples.lengths(),
            seed=args.seed if args.data_seed is None else args.data_seed,
            shuffle=shuffle,
            rank=args.process_index,
            world=args.world_size,
            drop_last=args.dataloader_drop_last,
            number_epochs=shuffle and examples.augmenter is not None,
            stream=examples.rows.order,
        )

    def _loader(self, examples: ExampleDataset, steps: StepSampler) -> DataLoader:
        # Not prepared by accelerate as the Trainer's own is: that would divide the steps among processes once more.
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

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[Batch]], num_batches: int, device: torch.device
    ) -> tuple[list[list[Batch]], Tensor]:
        """The next optimizer step, and its target tokens over all micro-batches and processes."""
        steps = list(itertools.islice(epoch_iterator, num_batches))
        batches = [batch for step in steps for batch in step]
        self.clips_seen += sum(len(batch) for batch in batches) * self.args.world_size
        self.rows_replaced += sum(batch.num_replaced for batch in batches)
        total = torch.tensor(sum(batch.num_targets for batch in batches), device=device)
        return steps, self.accelerator.gather(total).sum() if self.args.world_size > 1 else total

    def model_inputs(self, batch: Batch) -> dict[str, Any]:
        """Features on the training device, and turns, as :meth:`AlarmModel.forward` takes them."""
        ready = None if self.ahead is None else self.ahead.take(batch)
        return self._prepare_inputs_of(batch) if ready is None else ready

    def _prepare_inputs_of(self, batch: Batch) -> dict[str, Any]:
        pieces = zip(batch.starts, batch.mains, batch.outputs, strict=True)
        turns = [TokenizedTurn(start, main, outputs) for start, main, outputs in pieces]
        features: Mapping[str, Any] | None = None
        if batch.waveforms is not None and self.cache is None:
            features = self.extractor([waveform for waveform in batch.waveforms if waveform is not None])
        elif batch.waveforms is not None and self.cache is not None:
            with self.autocast():
                features = self.cache(batch.clips, batch.waveforms)
        return {"features": features, "turns": turns, "keys": batch.keys, "descriptions": batch.descriptions}

    # ---- loss

    def autocast(self) -> AbstractContextManager[None]:
        """Mixed precision as ``training_args`` say; accelerate enters no autocast for DeepSpeed."""
        if self.is_deepspeed_enabled and self.args.bf16:
            return torch.autocast(self.args.device.type, torch.bfloat16)
        return self.accelerator.autocast()

    @contextmanager
    def _without_sync(self, model: nn.Module) -> Iterator[None]:
        """Run backward passes that neither exchange gradients nor, under DeepSpeed, take the optimizer's step."""
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
        """Compute the gradients of all micro-batches; processes exchange them once, with the last."""
        self._record_draws(inputs)
        if self.ahead is not None:
            self.ahead.begin(inputs)
        losses = []
        for place, batch in enumerate(inputs):
            last = place == len(inputs) - 1
            with nullcontext() if last else self._without_sync(model):
                losses.append(super().training_step(model, batch, num_items_in_batch))
        total = torch.stack(losses)
        if self.guard.check_losses(total, inputs, self.state.global_step + 1):
            return total.sum()
        return total.new_zeros(())

    @property
    def draws_file(self) -> Path:
        """JSON lines with the effects on every clip of this process: ``step``, ``key``, ``effects``."""
        rank = self.args.process_index
        return Path(self.args.output_dir) / f"augmentation{f'.{rank}' if rank else ''}.jsonl"

    def _record_draws(self, batches: Sequence[Batch]) -> None:
        step = self.state.global_step + 1
        if self.data.train is None or self.data.train.augmenter is None:
            return
        rows = [pair for batch in batches for pair in zip(batch.keys, batch.draws, strict=True)]
        with self.draws_file.open("a", encoding="utf-8") as file:
            file.write(json_lines({"step": step, "key": key, "effects": draw} for key, draw in rows))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Check that the norm is finite; a step to skip loses its gradients."""
        # transformers 5.19.0 has no hook that gets the norm before the optimizer's step: on_pre_optimizer_step does
        # not, and gradients are clipped by then.
        # https://github.com/huggingface/transformers/blob/v5.19.0/src/transformers/trainer.py#L2749
        norm = super()._get_grad_norm(model, grad_norm)
        if not self.guard.check_gradient(norm, self.state.global_step + 1):
            model.zero_grad(set_to_none=True)
        return norm

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Loss sum of the micro-batch divided by the target tokens of the step."""
        batch = self.model_inputs(inputs)
        with self.autocast():
            outputs = model(batch)
        self.positions += outputs["positions"]
        items = outputs["num_targets"] if num_items_in_batch is None else num_items_in_batch
        # DDP averages gradients over the processes, the loss is a mean over the tokens of all: hence the factor.
        loss = outputs["loss_sum"] * self.args.world_size / items.clamp(min=1)
        return (loss, outputs) if return_outputs else loss

    # ---- evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss per token of every evaluation set, and of the objective's parts; means by group and over all."""
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if eval_dataset is None:
            means = mean_losses(metrics, self.data, metric_key_prefix, ("", *(f"_{name}" for name in self._parts)))
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
        """Mean loss over all target tokens of a set, independent of batch sizes and processes.

        Parts of the objective are means over their own positions, left out where a set has none.
        """
        if not self._eval_ready and not self.is_in_train:
            self.accelerator.prepare_model(self.model, evaluation_mode=True)  # mixed precision, when asked for
        self._eval_ready = True
        was_training = self.model.training
        self.model.eval()
        # float64: a float32 sum of some million tokens' losses drops what the last batches add
        sums = torch.zeros(3, dtype=torch.float64, device=self.args.device)
        parts: dict[str, Tensor] = {}
        # A process without a row of its own computes row 0, uncounted: the forward of a sharded model is collective.
        counted = self.args.process_index < len(dataloader.dataset)  # type: ignore[arg-type]
        for batch in (batch for step in dataloader for batch in step):
            inputs = self.model_inputs(batch)
            with self.autocast():
                outputs = self.model(inputs)
            sums += counted * torch.stack(
                [outputs["loss_sum"], outputs["num_targets"], sums.new_tensor(len(batch))]
            ).to(sums)
            for name, value in outputs["parts"].items():
                parts[name] = parts.get(name, 0) + counted * value.to(sums)
        self._parts = tuple(parts)
        self.model.train(was_training)
        sums = torch.cat([sums, *parts.values()])
        if self.args.world_size > 1:
            sums = self.accelerator.gather(sums[None]).sum(dim=0)
        loss, tokens, rows, *others = sums.tolist()
        metrics = {f"{metric_key_prefix}_loss": loss / max(tokens, 1), f"{metric_key_prefix}_tokens": tokens}
        for name, total, number in zip(self._parts, others[::2], others[1::2], strict=True):
            metrics |= {f"{metric_key_prefix}_{name}_loss": total / number} if number else {}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=int(rows))

    # ---- checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write adapters, fusion, separators and LoRA, and the configuration that names the frozen parts.

        The Trainer calls it with a ``checkpoint-N`` folder before it writes the other files there: leftovers of an
        interrupted run are removed first, and the record of the rows that are done is added.
        """
        folder = Path(output_dir or self.args.output_dir)
        if _internal_call and output_dir is not None:
            if self.args.should_save and folder.exists():
                shutil.rmtree(folder)
            self.accelerator.wait_for_everyone()
            if self.args.should_save and self.train_steps is not None:
                folder.mkdir(parents=True, exist_ok=True)
                done = self.train_steps.done(self.state.global_step - self.epoch_began_at)
                write_rows_done(folder, self.train_steps.epoch, done, self._stream_record(self.train_steps))
        if self.is_sharded or self.args.should_save:  # all processes gather the parts of a sharded model
            extra: dict[str, Any] = {"step": self.state.global_step, "seed": self.args.seed}
            if self.prompts is not None:
                extra[RECORD_KEY] = prompt_record(self.prompts)
            model = self._unwrapped()
            save_checkpoint(
                folder, model.audio_embedder, self.model_config, extra, model.llm, write=self.args.should_save
            )
        if self.args.push_to_hub and not _internal_call and not self.is_sharded:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Write the same files whether the model is sharded or not."""
        # transformers 5.19.0 would write a sharded optimizer with the frozen LLM, readable by such a run only:
        # https://github.com/huggingface/transformers/blob/v5.19.0/src/transformers/trainer.py#L3479
        if not self.is_sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        if self.is_deepspeed_enabled:
            deepspeed_state.save_optimizer(self.model_wrapped, Path(output_dir), self.args.should_save)
        else:
            fsdp_state.save_optimizer(self.model, self.optimizer.optimizer, Path(output_dir), self.args.should_save)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Read the files of any run: sharded or not, ours or the published system's."""
        # The counterpart of _save_optimizer_and_scheduler; the published optimizer's state needs checks of its own.
        # https://github.com/huggingface/transformers/blob/v5.19.0/src/transformers/trainer.py#L3848
        if checkpoint is not None and is_published(Path(checkpoint)):
            load_published_state(
                Path(checkpoint), self.optimizer, self.lr_scheduler, self.state.global_step, self.is_sharded
            )
            return
        if not self.is_sharded or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        if self.is_deepspeed_enabled:
            deepspeed_state.load_optimizer(self.model_wrapped, Path(checkpoint))
        else:
            fsdp_state.load_optimizer(self.model, self.optimizer.optimizer, Path(checkpoint))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """Load the optimizer of a DeepSpeed run from the file of any run."""
        # transformers 5.19.0 calls deepspeed_load_checkpoint here, which requires DeepSpeed's own checkpoint folders:
        # https://github.com/huggingface/transformers/blob/v5.19.0/src/transformers/trainer.py#L1701
        if not self.is_deepspeed_enabled:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restore the random generators, except from a published checkpoint."""
        # Those were drawn from by other code. transformers 5.19.0 would load any rng_state.pth:
        # https://github.com/huggingface/transformers/blob/v5.19.0/src/transformers/trainer.py#L3803
        if checkpoint is None or not is_published(Path(checkpoint)):
            super()._load_rng_state(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load a checkpoint's trained state into the model, before FSDP shards it."""
        # transformers 5.19.0 looks for the whole model; a checkpoint of ours has the trained parts only:
        # https://github.com/huggingface/transformers/blob/v5.19.0/src/transformers/trainer.py#L3568
        if self.is_fsdp_enabled and isinstance(next(self._unwrapped().parameters()), DTensor):
            return  # src/training/run.py has loaded it
        load_state(self._unwrapped().audio_embedder, self._unwrapped().llm, Path(resume_from_checkpoint))

    @property
    def is_sharded(self) -> bool:
        """Whether the processes share the model or the optimizer's state (FSDP, DeepSpeed)."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def _unwrapped(self) -> AlarmModel:
        return self.accelerator.unwrap_model(self.model)
