#!/usr/bin/env bash
# Runs every performance program and writes performance.json and performance.md to a folder; about 30 minutes on a quiet
# machine of two cores, 10 GB of disk. One that fails is named at the end, and the others go on.
#   scripts/perf/all.sh [--out DIR] [--docs] [NAME...]
# NAME: only these programs. --docs: also replaces the tables of docs/performance.md. PYTHON: another interpreter.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root" || exit 1
python=${PYTHON:-$root/.venv/bin/python}
out=outputs/perf docs=() names=() failed=()
while (($#)); do
    case $1 in
        --out) out=${2:?--out needs a folder}; shift ;;
        --docs) docs=(--docs docs/performance.md) ;;
        -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
        -*) echo "error: unknown option $1; see --help" >&2; exit 2 ;;
        *) names+=("$1") ;;
    esac
    shift
done
mkdir -p "$out" || exit 1
work=$(mktemp -d "${TMPDIR:-/tmp}/alarm_perf.XXXXXX")
trap 'rm -rf "$work"' EXIT

# measure NAME ARGUMENT...: one program, with its output in NAME.log
measure() {
    local name=$1 began=$SECONDS
    shift
    if ((${#names[@]})) && [[ " ${names[*]} " != *" $name "* ]]; then return; fi
    rm -f "$out/$name.json"
    "$python" "scripts/perf/$name.py" "$@" --json "$out/$name.json" >"$out/$name.log" 2>&1 ||
        [[ -s $out/$name.json ]] || failed+=("$name")
    echo "$name: $((SECONDS - began)) s$(grep -m 1 -o 'other work disturbed.*cores' "$out/$name.log" | sed 's/^/; /')"
}

measure features --rounds 7
measure data --clips 16
measure encode --encoders whisper w2vbert sslam --layers 2 --seconds 12 30 --dtype float32
measure train_step --size cpu --clips 8 --only ends
measure objectives --rows 1 --only "kl, top 64" "kl, two models and all logits"
measure generate --clips 128 --rounds 5
measure serve --rounds 5
measure score
measure decode
measure unpack
measure open_dataset --root "$work/sets" --scale 0.1
measure corpus --root "$work/corpus" --files 1000 --rows 100000
measure load_checkpoint --llm-layers 4
measure gpu --size cpu --clips 4 --longest 60 --out "$work/gpu"
if [[ -d saved/mini_alarm_ca ]]; then
    measure precision saved/mini_alarm_ca
elif ((!${#names[@]})); then
    echo "precision: left out, it needs the trained miniature in saved/mini_alarm_ca (./quickstart.sh)"
fi

"$python" scripts/perf/report.py "$out" "${docs[@]}" || failed+=(report)
if ((${#failed[@]})); then
    echo "error: failed: ${failed[*]}; see $out/NAME.log" >&2
    exit 1
fi
echo "written: $out/performance.json, $out/performance.md"
