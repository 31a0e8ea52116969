#!/usr/bin/env bash
# A small real model on a CPU or one GPU: a pretrained LLM that transcribes speech through Whisper tiny (docs/small_real.md).
#
# SPEECH=talks.jsonl recipes/small_real.sh        import, align, train, score; run again after a crash: done stages are skipped
# recipes/small_real.sh --list | --dry-run | --only STAGE | --from STAGE
#
# Environment, with defaults: SPEECH (a source for scripts/import_dataset.py, with transcripts), NAME=small_real (of the set),
# LLM=HuggingFaceTB/SmolLM2-135M-Instruct and WHISPER=openai/whisper-tiny.en (folders or Hub ids), OUT=saved/small_real,
# ALIGN_STEPS=2000, TRAIN_STEPS=400, BF16=true where the CPU or GPU has it, THREADS (all cores),
# EXTRA="more options of train.py", PROMPT (the user's text).
# Stages: import, align (the adapter alone, objective=ctc), transcribe (with LoRA in the LLM, objective=ce), score.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
SPEECH=${SPEECH:-}
NAME=${NAME:-small_real}
OUT=${OUT:-saved/small_real}
TRAINING_ARGS=${TRAINING_ARGS:-small}
PROMPT=${PROMPT:-Transcribe.}
BF16=${BF16:-$(grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo || nvidia-smi >/dev/null 2>&1 && echo true || echo false)}
export OMP_NUM_THREADS=${THREADS:-$(nproc)}
source scripts/train_stages.sh
options "$@"
DATA=${ALARM_DATA_ROOT:-data/datasets}/raw/$NAME

# step NAME DONE_FILE COMMAND…: one that is no training
step() {
  local name=$1 made=$2
  shift 2
  NAMES="${NAMES:-} $name"
  if [ "$name" = "$FROM" ]; then STARTED=yes; fi
  if [ -n "$ONLY" ] && [ "$name" != "$ONLY" ] || [ -z "$STARTED" ]; then return; fi
  if [ -f "$made" ]; then echo "$name: done ($made)"; return; fi
  if [ -n "$LIST" ]; then echo "$name: to do ($made)"; return; fi
  echo "$name: $*"
  [ -n "$DRY" ] || "$@"
}

# train NAME STEPS CLIPS OPTIONS…
train() {
  local name=$1 steps=$2 CLIPS=$3
  shift 3
  EPOCHS=1 WORKERS=0 SAVE_STEPS=500 stage "$name" "$CLIPS" 500 \
    model=small_whisper model.llm="${LLM:-HuggingFaceTB/SmolLM2-135M-Instruct}" \
    model.config.encoders.whisper.source="${WHISPER:-openai/whisper-tiny.en}" \
    dataset=own "dataset.sets=[$NAME]" "dataset.prompt='$PROMPT'" training_args.bf16="$BF16" \
    encoder_cache_dir="$OUT/encoder_states" training_args.max_steps="$steps" "$@"
}

if [ -z "$SPEECH" ] && [ ! -f "$DATA/import_report.json" ] && [ -z "$LIST$DRY" ]; then
  echo "error: SPEECH is not set; give a folder, table or JSONL file of clips and transcripts (scripts/import_dataset.py --help)" >&2
  exit 2
fi
step import "$DATA/import_report.json" "$PYTHON" scripts/import_dataset.py "$SPEECH" --name "$NAME"
train align "${ALIGN_STEPS:-2000}" 16 objective=ctc targets_end=none
train transcribe "${TRAIN_STEPS:-400}" 4 objective=ce targets_end=end_of_turn lora.r=8 model.from_pretrained="$OUT/align" \
  training_args.learning_rate=1.0e-3
step score "$OUT/transcribe/speech_scores.json" "$PYTHON" scripts/score_speech.py "$OUT/transcribe"
finish
