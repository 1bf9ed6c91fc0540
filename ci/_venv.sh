# To be sourced. `prepare_venv [extra]` then makes .venv, installs this checkout with the extra and
# sets PYTHON. CLIMS_PYTHON=... uses that interpreter as it is and installs nothing.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"

# glibc hands every large block back to the system when it is freed, and each new tensor is then paid
# for again in page faults, up to a quarter of the CPU time. These keep such blocks for the next one.
export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-1073741824}"
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-4294967296}"

# For pytest and nbval; `clims` does it by itself, and clims_lib/__init__.py says why.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-0}"

# So that `python -m clims_lib` is this checkout's, wherever it is called and whatever is installed.
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"

find_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
            2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "Python 3.11 or newer with its venv module was not found." >&2
    echo "Debian, Ubuntu: sudo apt install python3 python3-venv; Fedora: sudo dnf install python3" >&2
    return 1
}

# Installing takes minutes, so a stamp remembers what was installed last.
stamp_of() {
    { echo "$ROOT $1"; cat "$ROOT/pyproject.toml" "$ROOT/ci/constraints.txt"; } | sha256sum
}

install_checkout() {
    local extra="$1" target="$ROOT" log="$VENV/install.log"
    [[ -n "$extra" ]] && target="$ROOT[$extra]"
    echo "Installing clims-tutorial${extra:+ [$extra]} into .venv (minutes the first time) ..." >&2
    if ! "$PYTHON" -m pip install --disable-pip-version-check --progress-bar off \
        -e "$target" -c "$ROOT/ci/constraints.txt" >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        echo "Installing failed; all of pip's output is in $log" >&2
        return 1
    fi
    stamp_of "$extra" >"$VENV/.stamp-${extra:-base}"
}

is_installed() {
    [[ -f "$VENV/.stamp-${1:-base}" && "$(cat "$VENV/.stamp-${1:-base}")" == "$(stamp_of "$1")" ]]
}

prepare_venv() {
    local extra="${1:-}" python
    if [[ -n "${CLIMS_PYTHON:-}" ]]; then
        PYTHON="$CLIMS_PYTHON"
        return
    fi
    PYTHON="$VENV/bin/python"
    if ! "$PYTHON" -c 'import pip' 2>/dev/null; then
        python="$(find_python)"
        rm -rf "$VENV"  # broken: its interpreter is gone, or making it was interrupted
        "$python" -m venv "$VENV"
    fi
    # Everything of the base and of the other extras but the benchmarks' is in the test extra, too.
    if is_installed "$extra" || { [[ "$extra" != bench ]] && is_installed test; }; then
        return
    fi
    install_checkout "$extra"
}
