#!/bin/sh
# Makes .venv beside the project with everything in requirements.lock, and modelyard itself in editable form.
# Needs Python 3.11 to 3.13 and nothing else. Uses uv if it is there, else installs it into the new environment;
# where uv cannot be had, pip does the same work more slowly.
set -eu
cd "$(dirname "$0")/.."

stamp=.venv/.ready
if [ -f "$stamp" ] && [ "$stamp" -nt requirements.lock ] && [ "$stamp" -nt pyproject.toml ]; then
  exit 0
fi

python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      python=$candidate
      break
    fi
  done
fi
if [ -z "$python" ]; then
  echo "modelyard needs Python 3.11, 3.12 or 3.13, and none is on PATH. Install one, or name it: make demo PYTHON=/path/to/python" >&2
  exit 1
fi

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c '' 2>/dev/null; then
  rm -rf .venv
  if ! "$python" -m venv .venv; then
    echo "$python cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2
    exit 1
  fi
fi

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check uv >/dev/null 2>&1 || true
  [ -x .venv/bin/uv ] && uv=.venv/bin/uv
fi

echo "Setting up .venv (about 150 packages, 1.2 GB on disk) ..." >&2
if [ -n "$uv" ]; then
  "$uv" pip install --quiet -p .venv/bin/python --require-hashes -r requirements.lock
  "$uv" pip install --quiet -p .venv/bin/python --no-deps -e .
else
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
fi
# Compiled once, here: where PYTHONDONTWRITEBYTECODE is set, every process would compile all that it imports, for seconds.
.venv/bin/python -m compileall -qq -j 2 .venv/lib || true # some packages carry templates that are no Python
touch "$stamp"
