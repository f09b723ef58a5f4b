# What the scripts share. Sourced, not run.

python="$here/../.venv/bin/python"
# Threads that spin at the end of small parallel loops only take time from each other.
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-1000}"

# The file as named, or with .gz added or removed where only that one exists.
existing() {
    if [[ ! -e "$1" && -e "$1.gz" ]]; then
        printf '%s' "$1.gz"
    elif [[ ! -e "$1" && "$1" == *.gz && -e "${1%.gz}" ]]; then
        printf '%s' "${1%.gz}"
    else
        printf '%s' "$1"
    fi
}

# Sets `networks` to NAME=FILE words. One network has no name: =FILE.
# Several come as the text of a Python list: [('f', 'first.onnx'), ('g', 'second.onnx')].
read_networks() {
    local rest="$1" quote="['\"]"
    networks=()
    if [[ ! "$rest" =~ ^[[:space:]]*\[ ]]; then
        networks=("=$rest")
        return
    fi
    local pair="\([[:space:]]*$quote([^'\"]*)$quote[[:space:]]*,[[:space:]]*$quote([^'\"]*)$quote[[:space:]]*\)"
    while [[ "$rest" =~ $pair ]]; do
        networks+=("${BASH_REMATCH[1]}=${BASH_REMATCH[2]}")
        rest="${rest#*"${BASH_REMATCH[0]}"}"
    done
}
