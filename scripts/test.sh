#!/usr/bin/env bash
# Runs the tests, with nextest where it is installed, else one by one: some share the engine and
# are timed.
set -euo pipefail
if cargo nextest --version >/dev/null 2>&1; then
  exec cargo nextest run --locked --no-fail-fast "$@"
fi
export RUST_TEST_THREADS=1
exec cargo test --locked --no-fail-fast "$@"
