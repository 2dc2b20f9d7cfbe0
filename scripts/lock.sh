#!/usr/bin/env bash
# Rewrite requirements/*.lock: one resolution for everything that shares a virtual environment, `local` apart.
# Usage: UV=path/to/uv scripts/lock.sh [--upgrade]
set -euo pipefail
cd "$(dirname "$0")/.."
UV=${UV:-uv}
whole() {
  "$UV" pip compile -q --no-config --universal --python-version 3.11 --only-binary :all: --generate-hashes --no-annotate \
    --custom-compile-command "make lock" "$@"
}
compile() { whole --override requirements/overrides.txt "$@"; }
together=$(mktemp); trap 'rm -f "$together"' EXIT
[ "${1:-}" = --upgrade ] || cat requirements/all.lock >"$together" 2>/dev/null || true
compile --group core --group train --group serve --group deploy --group dev -o "$together"
cp "$together" requirements/all.lock
compile -c requirements/all.lock --group core -o requirements/core.lock
compile -c requirements/all.lock --group core --group train -o requirements/train.lock
compile -c requirements/all.lock --group core --group serve -o requirements/serve.lock
compile -c requirements/all.lock --group deploy -o requirements/deploy.lock
compile --group local -o requirements/local.lock
echo "uv==0.13.9" | compile - -o requirements/tools.lock
zig=ziglang==0.17.1 # a C compiler, for the images
echo "$zig" | compile - -o requirements/native.lock
printf '%s\n' triton==3.6.0 "$zig" | whole - -o requirements/compile.lock # the triton that torch 2.10.0 asks for
