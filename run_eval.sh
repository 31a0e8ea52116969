#!/usr/bin/env bash
# From a benchmark's name to printed scores and a report: answers through vLLM, joined by id, scored, drawn.
#
# ./run_eval.sh DATASET MODEL CHECKPOINT [SPLIT] [BATCH_SIZE] [GPU_MEMORY_UTILIZATION] [SEED]
#   DATASET     mmau, mmar, mmsu, airbench, mmaupro; or any set below data/datasets/raw, a folder, a Hub id
#   MODEL       a name in src/configs/model, as alarm_ca; what the audio passes through comes from the checkpoint
#   CHECKPOINT  a folder or Hub id; an ensemble as [A,B] or ["A","B"]
#   SPLIT       null (all), BATCH_SIZE 8, GPU_MEMORY_UTILIZATION 0.5, SEED null
# Run it again after a crash: answers that are there are kept. It can be started from any folder. Environment, with
# defaults: CUDA_VISIBLE_DEVICES (one engine on each GPU), MAX_TOKENS=16384, MAX_THINKING_TOKENS=8192, LLM (the
# checkpoint's own), PROMPTS (the checkpoint's own; or full, mini, a file NAME.yaml), TAG (run_tag),
# REPORT (RUN/report.html),
# EXTRA="more options of generate_vllm_mcqa.py". ENDPOINT=URL with LLM=NAME asks the model behind a chat endpoint;
# MODEL, CHECKPOINT and the GPU are then not used (docs/generation.md).
#   ./run_eval.sh mmsu alarm_ca "Blinorot/ALARM-CA" "test" 8
#   ENDPOINT=https://HOST/v1 LLM=NAME PROMPTS=mmsu ./run_eval.sh mmsu none endpoint test
set -euo pipefail
usage() { sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }
case "${1:-}" in -h | --help) usage; exit 0 ;; esac
[ $# -ge 3 ] && [ $# -le 7 ] || { usage >&2; exit 2; }
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-$([ -x "${ALARM_VENV:-$HERE/.venv}/bin/python" ] && echo "${ALARM_VENV:-$HERE/.venv}/bin/python" || echo python)}
DATASET=$1 MODEL=$2 CHECKPOINT=$3 SPLIT=${4:-null} BATCH_SIZE=${5:-8} GPU_MEMORY_UTILIZATION=${6:-0.5} SEED=${7:-null}
MAX_TOKENS=${MAX_TOKENS:-16384} MAX_THINKING_TOKENS=${MAX_THINKING_TOKENS:-8192} LLM=${LLM:-} TAG=${TAG:-} PROMPTS=${PROMPTS:-}

OPTIONS=()
if [ -n "${ENDPOINT:-}" ]; then
  CHECKPOINT=endpoint
  ANSWERS=(engine=openai "engine.base_url=$ENDPOINT" "engine.model=$LLM") MEMORY=()
else
  ANSWERS=("model=$MODEL" "checkpoint_name=$CHECKPOINT")
  MEMORY=("engine.gpu_memory_utilization=$GPU_MEMORY_UTILIZATION")
  [ -n "$LLM" ] && OPTIONS+=("model.llm=$LLM")
fi
[ -n "$PROMPTS" ] && OPTIONS+=("prompts=$PROMPTS")
[ -n "$TAG" ] && OPTIONS+=("run_tag=$TAG")
[ -n "${CUDA_VISIBLE_DEVICES:-}" ] && [ -z "${ENDPOINT:-}" ] && OPTIONS+=("cuda_devices='$CUDA_VISIBLE_DEVICES'")
# shellcheck disable=SC2086  # EXTRA is several options
"$PYTHON" "$HERE/generate_vllm_mcqa.py" "${ANSWERS[0]}" "dataset.name=$DATASET" "dataset.split=$SPLIT" \
  "${ANSWERS[@]:1}" "batch_size=$BATCH_SIZE" "seed=$SEED" "${MEMORY[@]}" "model.max_tokens=$MAX_TOKENS" \
  "model.max_thinking_tokens=$MAX_THINKING_TOKENS" "${OPTIONS[@]}" ${EXTRA:-}

JOIN=(--dataset "$DATASET" --checkpoint "$CHECKPOINT" --max-tokens "$MAX_TOKENS"
  --max-thinking-tokens "$MAX_THINKING_TOKENS")
[ "$SEED" != null ] && JOIN+=(--seed "$SEED")
[ -n "$LLM" ] && JOIN+=(--llm "$LLM")
[ -n "$TAG" ] && JOIN+=(--tag "$TAG")
case "${EXTRA:-}" in *dataset.limit=[1-9]*) JOIN+=(--partial) ;; esac
FILES=$("$PYTHON" "$HERE/scripts/benchmarks/create_answer_json.py" "${JOIN[@]}")

case "$DATASET" in /* | .*) NAME=$(basename "$DATASET") ;; *) NAME=$DATASET ;; esac
[ -f "$HERE/scripts/benchmarks/evaluation/$NAME.py" ] || NAME=generic
SCORED=''
while IFS= read -r FILE; do
  if "$PYTHON" "$HERE/scripts/benchmarks/evaluation/$NAME.py" --input "$FILE"; then SCORED=yes; fi
done <<<"$FILES"
RUN=$(dirname "$(dirname "$(head -n 1 <<<"$FILES")")")
[ -n "$SCORED" ] || { echo "no split of $RUN has known answers; its files are for the authors' scoring" >&2; exit 0; }
"$PYTHON" "$HERE/scripts/benchmarks/report.py" "$RUN" --output "${REPORT:-$RUN/report.html}"
