#!/bin/sh
# usage: run.sh PROGRAM CORPUS FOLDER
# Runs a fuzz target for LOCKR_FUZZ_SECONDS (5), from its corpus, with its dictionary if it has one. What it finds is kept
# in FOLDER: inputs that reach new code, from which the next run goes on, and inputs that break a promise (crash-…).
set -eu
program=$1 corpus=$2 found=$3
mkdir -p "$found/corpus"
# The exit status of a find must not be 77, which means "skipped" to Meson.
set -- -max_total_time="${LOCKR_FUZZ_SECONDS:-5}" -timeout=10 -max_len=4096 -print_final_stats=1 -verbosity=0 \
  -error_exitcode=1 -timeout_exitcode=1 -artifact_prefix="$found/"
[ ! -f "$corpus.dict" ] || set -- "$@" -dict="$corpus.dict"
exec "$program" "$@" "$found/corpus" "$corpus"
