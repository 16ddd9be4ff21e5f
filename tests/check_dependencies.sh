#!/usr/bin/env bash
# The library's tests with the oldest or the newest versions of what it depends on, in an environment of their own.
# Usage: bash tests/check_dependencies.sh oldest|newest [arguments for pytest]
#
# TORCH_OF=python3 takes the torch of another Python in place of a download of some gigabytes (and says so).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
which=${1:?usage: bash tests/check_dependencies.sh oldest|newest [arguments for pytest]}
shift
[ "$which" = oldest ] || [ "$which" = newest ] || { echo "say oldest or newest, not $which" >&2; exit 2; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python=$folder/venv/bin/python
python3 tests/dependency_versions.py "$which" cli,trainer >"$folder/wanted.txt"
if [ -n "${TORCH_OF:-}" ]; then
    # torch alone: of nothing else may there be another version.
    there=$("$TORCH_OF" -c 'import torch, pathlib; print(pathlib.Path(torch.__file__).parents[1])')
    here=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    ln -s "$there"/torch "$there"/torchgen "$there"/functorch "$there"/torch-*.dist-info "$here"
    "$TORCH_OF" -c 'import torch; print("torch is not checked: it is", torch.__version__)'
    grep -v '^torch[=>]' "$folder/wanted.txt" >"$folder/rest.txt"
    grep -vE '^(accelerate|peft)[=>]' "$folder/rest.txt" >"$folder/plain.txt"
    # These two ask for torch, which pip would download.
    grep -E '^(accelerate|peft)[=>]' "$folder/rest.txt" >"$folder/bare.txt"
    "$python" -m pip install --quiet --upgrade --no-deps -r "$folder/bare.txt"
    "$python" -m pip install --quiet --upgrade -r "$folder/plain.txt" psutil pyyaml packaging tqdm \
        filelock typing-extensions sympy networkx jinja2 fsspec
else
    "$python" -m pip install --quiet --upgrade -r "$folder/wanted.txt"
fi
# What only the tests need must not raise any of the versions that are checked.
"$python" -m pip install --quiet --constraint "$folder/wanted.txt" pytest pytest-xdist hypothesis beartype scipy
"$python" -m pip list --format=freeze | grep -iE '^(torch|numpy|peft|safetensors|jaxtyping|regex|transformers|accelerate|tyro|tabulate|matplotlib)=='

export PYTHONPATH=$PWD OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Old versions warn of what has changed since, and cannot check types while tests run; curvlinops is an oracle of one
# test only.
"$python" -m pytest -W default -n 2 -o addopts="--import-mode=importlib --doctest-modules --strict-markers" \
    prunedlora tests/prunedlora --ignore prunedlora/training/axolotl.py --ignore tests/prunedlora/statistics/test_curvlinops.py "$@"
