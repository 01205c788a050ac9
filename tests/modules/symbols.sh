#!/bin/sh
# usage: symbols.sh MODULE
# A module gives lockr_module and nothing else, and takes nothing of lockr.
set -eu
gives=$(nm -D --defined-only "$1" | awk '{ print $3 }')
takes=$(nm -D --undefined-only "$1" | awk '/lockr/ { print $2 }')
echo "gives: $gives"
echo "takes of lockr: ${takes:-nothing}"
[ "$gives" = lockr_module ] && [ -z "$takes" ]
