#!/usr/bin/env bash
# Installs the Chromium that tests/browser drives, on Debian and its like, unless there is one.
set -euo pipefail

for name in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" > /dev/null; then
        echo "found: $("$name" --version 2> /dev/null || echo "$name")"
        exit 0
    fi
done

if ! command -v apt-get > /dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "install.sh installs with apt-get as root; install Chromium in another way" >&2
    exit 1
fi

# Without a sandbox of its own, apt needs no temporary folder that everybody may write to.
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -qq -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0)
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends chromium > /dev/null
chromium --version
