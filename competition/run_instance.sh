#!/usr/bin/env bash
# VNN-COMP: run_instance.sh v1 CATEGORY ONNX VNNLIB RESULTS_FILE TIMEOUT
# Writes sat (with the counterexample), unsat, unknown, timeout or error to RESULTS_FILE, at once and whole.
# TIMEOUT may be fractional. It counts from the start of this script.
# Exit code 0 whenever the file was written, else 1.
set -uo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/common.sh"
if [[ $# -lt 6 || "$1" != v1 ]]; then
    echo "run_instance.sh: expected v1 CATEGORY ONNX VNNLIB RESULTS_FILE TIMEOUT, got: $*" >&2
    exit 1
fi
results="$5" limit="$6"
part="$results.part-$$"
trap 'rm -f -- "$part"' EXIT
rm -f -- "$results"

read_networks "$3"
property="$(existing "$4")"
if [[ ${#networks[@]} -eq 1 && "${networks[0]}" == =* ]]; then
    query=("$(existing "${networks[0]#=}")" "$property")
else
    query=("$property")
    for network in "${networks[@]}"; do query+=(--network "${network%%=*}=$(existing "${network#*=}")"); done
fi

"$python" -c 'from verinet.cli import main; main()' verify "${query[@]}" --timeout "$limit" --result "$part" --quiet >&2
code=$?
word=""
[[ -s "$part" ]] && IFS= read -r word <"$part"
case "$word" in
    sat | unsat | unknown | timeout) ;;
    *)
        echo "run_instance.sh: verinet ended with exit code $code and without an answer" >&2
        printf 'error\n' >"$part" || exit 1
        ;;
esac
mv -f -- "$part" "$results" || exit 1
exit 0
