# Stages of a training recipe, for train_alarm_*.sh to source: each is one `accelerate launch … train.py`, skipped when done.
#
# The caller runs `options "$@"`, `stage …` for each stage, then `finish`. Environment variables override the defaults.

OUT=${OUT:-saved}                          # folder of all runs; a stage trains into OUT/NAME
DATASET_ALL=${DATASET_ALL:-all_4b}         # all_4b_faster_eval evaluates on fewer sets
TRAINING_ARGS=${TRAINING_ARGS:-full}       # src/configs/training_args/…
GPUS=${GPUS:-}                             # processes; default: the GPUs of this machine, or 1
CLIPS=${CLIPS:-4}                          # clips of one micro-batch of one process
EFFECTIVE_ONE=${EFFECTIVE_ONE:-32}         # clips of an optimizer step, stages of one encoder's corpora
EFFECTIVE_ALL=${EFFECTIVE_ALL:-64}         # the same, stages over all corpora
EPOCHS=${EPOCHS:-2}                        # over the data of a stage, where TRAINING_ARGS gives no number of steps
WORKERS=${WORKERS:-$([ "$TRAINING_ARGS" = full ] && echo 2 || echo 0)}   # data workers of each process
EVAL_STEPS_ONE=${EVAL_STEPS_ONE:-5000}
EVAL_STEPS_ALL=${EVAL_STEPS_ALL:-20000}
SAVE_STEPS=${SAVE_STEPS:-5000}
EXTRA=${EXTRA:-}                           # more options for every stage, e.g. "max_batch_positions=8192 seed=7"
ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-}   # default: single.yaml for one process, else multigpu.yaml

PYTHON=${PYTHON:-$([ -x "${ALARM_VENV:-.venv}/bin/python" ] && echo "${ALARM_VENV:-.venv}/bin/python" || echo python)}
STARTED=yes FROM='' ONLY='' DRY='' LIST=''

usage() { sed -n '2,/^set -/s/^# \{0,1\}//p' "$0"; }

options() {
  while [ $# -gt 0 ]; do
    case "$1" in
      -h | --help) usage; exit 0 ;;
      --list) LIST=yes ;;
      --dry-run) DRY=yes ;;
      --from | --only)
        [ $# -ge 2 ] || { echo "error: $1 needs the name of a stage (see --list)" >&2; exit 2; }
        if [ "$1" = --from ]; then FROM=$2 STARTED=''; else ONLY=$2; fi
        shift ;;
      *) echo "error: unknown argument '$1'; known: --from STAGE, --only STAGE, --list, --dry-run, --help" >&2; exit 2 ;;
    esac
    shift
  done
  if [ -z "$GPUS" ]; then
    GPUS=$(nvidia-smi --list-gpus 2>/dev/null | grep -c . || true)
    [ "$GPUS" -ge 1 ] 2>/dev/null || GPUS=1
  fi
  if [ -z "$ACCELERATE_CONFIG" ]; then
    ACCELERATE_CONFIG=src/configs/accelerate/multigpu.yaml
    [ "$GPUS" -gt 1 ] || ACCELERATE_CONFIG=src/configs/accelerate/single.yaml
  fi
}

# stage NAME EFFECTIVE_CLIPS EVAL_STEPS TRAIN_OPTIONS…
stage() {
  local name=$1 effective=$2 eval_steps=$3 run=$OUT/$1 accumulation
  shift 3
  NAMES="${NAMES:-} $name"
  if [ "$name" = "$FROM" ]; then STARTED=yes; fi
  if [ -n "$ONLY" ] && [ "$name" != "$ONLY" ]; then return; fi
  if [ -z "$STARTED" ]; then return; fi
  if [ -f "$run/run.json" ] && [ -f "$run/model.safetensors" ]; then
    echo "$name: done ($run)"
    return
  fi
  if [ -n "$LIST" ]; then echo "$name: to do ($run)"; return; fi
  accumulation=$((effective / (GPUS * CLIPS)))
  if [ $((accumulation * GPUS * CLIPS)) -ne "$effective" ]; then
    echo "error: $effective clips of a step cannot be shared by GPUS=$GPUS processes with CLIPS=$CLIPS at a time; set CLIPS" >&2
    exit 2
  fi
  # shellcheck disable=SC2086  # EXTRA is a list of options
  set -- "$PYTHON" -m accelerate.commands.launch --quiet --config-file "$ACCELERATE_CONFIG" --num-processes "$GPUS" \
    train.py "$@" training_args="$TRAINING_ARGS" training_args.output_dir="$run" training_args.run_name="$name" \
    training_args.per_device_train_batch_size="$CLIPS" training_args.gradient_accumulation_steps="$accumulation" \
    training_args.num_train_epochs="$EPOCHS" training_args.dataloader_num_workers="$WORKERS" \
    training_args.eval_steps="$eval_steps" training_args.save_steps="$SAVE_STEPS" training_args.save_strategy=steps \
    resume_from_checkpoint=true $EXTRA
  echo "$name: $*"
  [ -n "$DRY" ] || "$@"
}

# After the last stage: --from or --only with an unknown stage is an error.
finish() {
  local wanted
  for wanted in $FROM $ONLY; do
    case "$NAMES " in
      *" $wanted "*) ;;
      *) echo "error: no stage '$wanted'; stages:$NAMES" >&2; exit 2 ;;
    esac
  done
}
