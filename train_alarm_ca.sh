#!/usr/bin/env bash
# ALARM-CA from the corpora to the fused model: four adapters, each on its own corpora, then the fusion on all of them.
#
# ./train_alarm_ca.sh                     every stage; run again after a crash: done stages are skipped, others resumed
# ./train_alarm_ca.sh --list              stages and whether they are done
# ./train_alarm_ca.sh --from alarm_ca     start there; --only STAGE: one stage; --dry-run: print the commands
#
# Environment, with defaults: OUT=saved, GPUS (those of this machine), CLIPS=4 per micro-batch, EFFECTIVE_ONE=32 and
# EFFECTIVE_ALL=64 clips of an optimizer step, DATASET_{ALL,SPEECH,AUDIO,MUSIC}, MODEL_{WHISPER,W2VBERT,SSLAM,MUQ,CA},
# EVAL_STEPS_{ONE,ALL}, SAVE_STEPS, TRAINING_ARGS=full, ACCELERATE_CONFIG, EXTRA="more options of train.py".
# On 4 H200 the published recipe took 6 to 9 days for whisper, 24 to 32 h for each other adapter on two of them, and 9
# to 12 days for the fusion (paper's numbers; docs/performance.md has ours).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/train_stages.sh
options "$@"

stage "${RUN_WHISPER:=whisper_all}" "$EFFECTIVE_ALL" "$EVAL_STEPS_ALL" \
  model="${MODEL_WHISPER:-whisper_batch}" dataset="$DATASET_ALL"
stage "${RUN_W2VBERT:=w2vbert_speech}" "$EFFECTIVE_ONE" "$EVAL_STEPS_ONE" \
  model="${MODEL_W2VBERT:-w2vbert}" dataset="${DATASET_SPEECH:-speech_4b}"
stage "${RUN_SSLAM:=sslam_audio}" "$EFFECTIVE_ONE" "$EVAL_STEPS_ONE" \
  model="${MODEL_SSLAM:-sslam}" dataset="${DATASET_AUDIO:-audio_4b}"
stage "${RUN_MUQ:=muq_music}" "$EFFECTIVE_ONE" "$EVAL_STEPS_ONE" \
  model="${MODEL_MUQ:-muq}" dataset="${DATASET_MUSIC:-music_4b}"
stage "${RUN_FUSION:=alarm_ca}" "$EFFECTIVE_ALL" "$EVAL_STEPS_ALL" \
  model="${MODEL_CA:-alarm_ca}" dataset="$DATASET_ALL" pretrained_adapters_dir="$OUT" freeze_adapters=true \
  "pretrained_adapters_names={whisper:$RUN_WHISPER,w2vbert:$RUN_W2VBERT,sslam:$RUN_SSLAM,muq:$RUN_MUQ}"
finish
