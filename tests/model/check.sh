#!/bin/sh
# usage: check.sh MODEL
# Searches every state of each variant of the lease protocol with Spin (https://spinroot.com), and asserts of each whether
# a stale write is possible: a model in which nothing can go wrong would prove nothing.
set -eu
model=$(readlink -f "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
status=0

# verdict WORDS DEFINITION...: prints what the search found, and compares it.
verdict() {
  expected=$1
  shift
  spin -a "$@" "$model" >spin.log || { cat spin.log; exit 1; }
  cc -O2 -w -DSAFETY -o pan pan.c
  ./pan -m100000 >pan.log
  grep -q 'Search not completed\|max search depth too small' pan.log && [ "$expected" = right ] && { cat pan.log; exit 1; }
  found=right
  if grep -q 'assertion violated' pan.log; then found='stale write'; fi
  states=$(sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' pan.log)
  printf '%-24s %-12s %s states\n' "${*:-(neither)}" "$found" "$states"
  [ "$found" = "$expected" ] || { echo "expected: $expected"; status=1; }
}

verdict 'right' -DFENCED
verdict 'stale write'
verdict 'right' -DTIMELY
verdict 'right' -DFENCED -DTIMELY
verdict 'stale write' -DTIMELY -DBLIND
verdict 'stale write' -DTIMELY -DREVIVING
verdict 'right' -DFENCED -DBLIND
exit $status
