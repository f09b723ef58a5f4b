#!/usr/bin/env bash
# VNN-COMP: install_tool.sh v1
# Makes the virtual environment that the other two scripts use, once, and tries it.
set -euo pipefail
if [[ "${1:-}" != v1 ]]; then
    echo "install_tool.sh: the first argument must be v1, not '${1:-}'" >&2
    exit 1
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-$(command -v python3.11 || command -v python3)}"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "install_tool.sh: Python 3.11 or newer is needed; name it in PYTHON" >&2
    exit 1
}
[[ -x .venv/bin/python ]] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
.venv/bin/verinet doctor
