# shellcheck shell=bash
# Shared by all scripts. Environment: DATA (default ./data), SEEDS (default "1 2 3"),
# OUTPUT (default ./output), PYTHON (default python).
# Checks, table and next steps: tools/protocol.py.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# Waiting threads give their core away: on a busy machine spinning ones slow everything down.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
PYTHON="${PYTHON:-$(command -v python || command -v python3)}"
rest=()

# usage: print the header of the script.
usage() {
    sed -n '2,/^# shellcheck/{/^# shellcheck/!s/^# \{0,1\}//p;}' "$0"
    exit 0
}

# is_key WORD: whether it is a flag or a config key (OPTIM.LR), not a positional argument.
is_key() {
    [[ $1 == -[!0-9]* || $1 =~ ^[A-Z][A-Za-z0-9_]*\.[A-Za-z0-9_.]+$ || $1 == USE_CUDA || $1 == VERBOSE ]]
}

# arguments "NAME..." "$@": fill the variables from the leading words; the others go to train.py.
# Where DATA is set, the dataset must be among them: the toy sets that are the default do not read it.
arguments() {
    local names=$1 name
    shift
    if [[ ${1:-} == -h || ${1:-} == --help ]]; then usage; fi
    for name in $names; do
        if [[ $# -eq 0 ]] || is_key "$1"; then
            if [[ -n ${DATA:-} && $name =~ ^(datasets?|source)$ ]]; then
                echo "Error: DATA is \"$DATA\", but no dataset is named, and the toy sets do not" \
                    "read DATA. Name one (-h for help; DATASETS.md lists them), or unset DATA." >&2
                exit 2
            fi
            continue
        fi
        printf -v "$name" '%s' "$1"
        shift
    done
    rest=("$@")
    if [[ $# -gt 0 ]] && ! is_key "$1"; then
        echo "Error: unexpected argument \"$1\" (positional arguments: $names; -h for help)." >&2
        exit 2
    fi
}

# table PROTOCOL DATASETS TRAINER: of all runs of a trainer, whatever their settings.
table() {
    local names='import sys; sys.path.insert(0, sys.argv[1])
from dassl.config.own_data import dataset_name, split_datasets
print(*map(dataset_name, split_datasets(sys.argv[2])))' name
    local folders=()
    for name in $("$PYTHON" -c "$names" "$root" "$2"); do
        folders+=("${OUTPUT:-./output}/$1/$name/$3")
    done
    "$PYTHON" "$root/parse_test_res.py" "${folders[@]}"
}

# protocol NAME OPTIONS...: all runs of a protocol, with what was given for train.py at the end.
protocol() {
    "$PYTHON" "$root/tools/protocol.py" "$@" ${rest[@]+"${rest[@]}"}
}
