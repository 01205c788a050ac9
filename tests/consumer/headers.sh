#!/bin/sh
# usage: headers.sh SOURCE_FOLDER BUILD_FOLDER
# Each public header alone, as strict users compile it: whoever includes it needs to include nothing before it, and hears
# of no warning. Then what programs without exceptions and type information, and those of the next standard, include.
set -eu
source=$1 build=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
strict='-Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wold-style-cast -Wnon-virtual-dtor -Werror'

compilers=
for compiler in g++ clang++; do
  if command -v $compiler >/dev/null; then compilers="$compilers $compiler"; fi
done
[ -n "$compilers" ] || compilers=${CXX:-c++}

# compiles COMPILER OPTIONS HEADER...
compiles() {
  compiler=$1 options=$2
  shift 2
  printf '#include <%s>\n' "$@" >"$work/alone.cc"
  echo "$compiler $options: $*"
  $compiler $options $strict -fsyntax-only -I"$source/include" -I"$build/include" "$work/alone.cc"
}

headers=$(cd "$source/include" && find lockr -name '*.h' | sort)
for compiler in $compilers; do
  for header in lockr/version.h $headers; do
    compiles $compiler -std=c++20 $header
  done
  plain=$(echo "$headers" | grep -v -e std_mutex.h -e testing/)
  compiles $compiler -std=c++2b lockr/version.h $headers
  compiles $compiler '-std=c++20 -fno-exceptions -fno-rtti' $plain
done
