#!/usr/bin/env bash
# VNN-COMP: prepare_instance.sh v1 CATEGORY ONNX VNNLIB
# Reads the program and the two files once, so that they are in the machine's memory. Nothing is analysed.
# Exit code 1 says that a file is missing; the organisers then skip the instance.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/common.sh"
if [[ $# -lt 4 || "$1" != v1 ]]; then
    echo "prepare_instance.sh: expected v1 CATEGORY ONNX VNNLIB, got: $*" >&2
    exit 1
fi
files=()
read_networks "$3"
for network in "${networks[@]}"; do files+=("$(existing "${network#*=}")"); done
files+=("$(existing "$4")")
for file in "${files[@]}"; do
    if [[ ! -r "$file" ]]; then
        echo "prepare_instance.sh: there is no such file: $file" >&2
        exit 1
    fi
    cat -- "$file" >/dev/null
done
"$python" -c 'import onnxruntime, torch, verinet.api, verinet.cli.app'
