#!/usr/bin/env bash
# fuzz_briefly.sh NAME: some seconds of build/fuzz/fuzz_NAME, from the seeds in tests/fuzz/corpus/NAME. What it finds is
# left in build/fuzz/findings/NAME-*, with exit code 1 (libFuzzer's own is 77, as that of a skipped test). Exit code 77
# where the program was not built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=$1
program=build/fuzz/fuzz_$name
if [[ ! -x $program ]]; then
  echo "$program is not built: ./dev build fuzz"
  exit 77
fi
mkdir -p build/fuzz/findings
grown=$(mktemp -d)
trap 'rm -rf "$grown"' EXIT
seeds=()
if [[ -d tests/fuzz/corpus/$name ]]; then seeds=("tests/fuzz/corpus/$name"); fi
"$program" -max_total_time="${FUZZ_SECONDS:-10}" -timeout=10 -rss_limit_mb=4096 -print_final_stats=1 -error_exitcode=1 \
  -artifact_prefix="build/fuzz/findings/$name-" "$grown" "${seeds[@]}"
