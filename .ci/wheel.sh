#!/usr/bin/env bash
# Builds the distribution, installs it into a fresh environment, and uses it from an
# empty folder: wheel.sh FOLDER. Needs .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
checkout=$PWD
mkdir -p "$1"
folder=$(cd "$1" && pwd)

# The first wheel is made from the sdist, the second from the checkout.
.venv/bin/python -m build --outdir "$folder/from_sdist" . >"$folder/build.log" ||
  { cat "$folder/build.log"; exit 1; }
.venv/bin/python -m build --wheel --outdir "$folder/from_checkout" \
  . >"$folder/build.log" || { cat "$folder/build.log"; exit 1; }
python3 "$checkout/.ci/compare_wheels.py" "$folder"/from_*/*.whl

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "$folder"/from_sdist/*.whl
"$folder/venv/bin/pip" check

mkdir "$folder/empty"
cd "$folder/empty"
PATH="$folder/venv/bin:$PATH" python "$checkout/.ci/use_installed.py"
