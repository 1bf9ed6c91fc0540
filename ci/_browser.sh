# To be sourced. `ensure_chromium` installs the browser of the tests where this machine lets us; where
# it does not, those tests are skipped.

ensure_chromium() {
    local name
    for name in chromium chromium-browser google-chrome; do  # as in tests/conftest.py
        if command -v "$name" >/dev/null; then return; fi
    done
    if [[ -n "${CLIMS_PYTHON:-}" || $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
        echo "No Chromium: the tests that need a browser are skipped (Debian: apt install chromium)."
        return
    fi
    echo "Installing Chromium for the tests that need a browser ..."
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends chromium; } >"$ROOT/.venv/chromium.log" 2>&1
    then
        echo "It failed (.venv/chromium.log); the tests that need a browser are skipped."
    fi
}
