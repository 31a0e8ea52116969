#!/usr/bin/env bash
# ALARM-P: Whisper's adapter on instructions, then the perceiver fusion with the three other adapters on all corpora.
#
# ./train_alarm_p.sh                      every stage; run again after a crash: done stages are skipped, others resumed
# ./train_alarm_p.sh --list               stages and whether they are done
# ./train_alarm_p.sh --from STAGE         start there; --only STAGE: one stage; --dry-run: print the commands
#
# Environment, with defaults: OUT=saved, GPUS (those of this machine), CLIPS=4 per micro-batch, EFFECTIVE_ONE=32 and
# EFFECTIVE_ALL=64 clips of an optimizer step, DATASET_{ALL,CONTENT}, MODEL_{WHISPER,P}, EVAL_STEPS_{ONE,ALL},
# SAVE_STEPS, TRAINING_ARGS=full, ACCELERATE_CONFIG, EXTRA="more options of train.py".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/train_stages.sh
options "$@"

stage "${RUN_WHISPER:=whisper_instruct}" "$EFFECTIVE_ONE" "$EVAL_STEPS_ONE" \
  model="${MODEL_WHISPER:-whisper_batch}" dataset="${DATASET_CONTENT:-content_4b}"
stage "${RUN_FUSION:=alarm_p}" "$EFFECTIVE_ALL" "$EVAL_STEPS_ALL" \
  model="${MODEL_P:-alarm_p}" dataset="$DATASET_ALL" pretrained_adapters_dir="$OUT" freeze_adapters=true \
  "pretrained_adapters_names={whisper:$RUN_WHISPER}" "frozen_adapters_names=[whisper]"
finish
