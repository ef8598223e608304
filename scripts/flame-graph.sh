#!/usr/bin/env bash
# Draws samples that perf took: flame-graph.sh SAMPLES PICTURE. The drawing is done by inferno, which is built
# into target/tools the first time.
set -euo pipefail
samples=$1 picture=$2
tools=$(cd "$(dirname "$0")/.." && pwd)/target/tools
if ! [ -x "$tools/bin/inferno-flamegraph" ]; then
  cargo install --quiet --locked --root "$tools" inferno --version 0.12.8
fi
perf script -i "$samples" 2>/dev/null | "$tools/bin/inferno-collapse-perf" 2>/dev/null | "$tools/bin/inferno-flamegraph" >"$picture"
echo "$picture"
