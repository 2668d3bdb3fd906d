#!/bin/sh
# Makes .peers/NAME, the environment of another product, from scripts/peers/NAME.txt (what tests compare with) or
# benchmarks/peers/NAME.txt (what benchmarks alone do).
# Peers never share .venv: their requirements are their own. Does nothing where the environment is up to date.
#
#   scripts/peers.sh mlflow
set -eu
cd "$(dirname "$0")/.."

name=${1:-}
list=scripts/peers/$name.txt
[ -f "$list" ] || list=benchmarks/peers/$name.txt
if [ -z "$name" ] || [ ! -f "$list" ]; then
  echo "Name a peer: $(for each in scripts/peers/*.txt benchmarks/peers/*.txt; do basename "$each" .txt; done | xargs)" >&2
  exit 2
fi

place=.peers/$name
stamp=$place/.ready
if [ -f "$stamp" ] && cmp -s "$stamp" "$list"; then
  exit 0
fi

uv=$(command -v uv || true)
[ -z "$uv" ] && [ -x .venv/bin/uv ] && uv=.venv/bin/uv
python=${PYTHON:-.venv/bin/python}
rm -rf "$place"
mkdir -p .peers
"$python" -m venv ${uv:+--without-pip} "$place"
echo "Setting up $place (about $(wc -l <"$list") packages) ..." >&2
if [ -n "$uv" ]; then
  links=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}} # uv looks where pip is told to look
  [ -n "$links" ] || links=$(python3 -m pip config get global.find-links 2>/dev/null || true)
  export UV_FIND_LINKS="$links"
  "$uv" pip install --quiet -p "$place/bin/python" -r "$list"
else
  "$place/bin/python" -m pip install --quiet --disable-pip-version-check -r "$list"
fi
"$place/bin/python" -m compileall -qq -j 2 "$place/lib" || true # see setup.sh
cp "$list" "$stamp"
