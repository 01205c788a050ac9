#!/bin/sh
# usage: as_subproject.sh SOURCE_FOLDER
# Builds and runs a project of its own that has lockr as a Meson subproject, as a shared library, and as an
# archive with what it needs from the wraps.
set -eu
source=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cp -r "$source/tests/consumer/program/." "$work"
mkdir -p "$work/subprojects/lockr"
for part in meson.build meson_options.txt include core backends subprojects; do
  cp -r "$source/$part" "$work/subprojects/lockr"
done

# What takes the place of the fetched sources of the wraps: this machine's own headers. The wraps, and the build files
# that they bring, are the real ones.
subprojects=$work/subprojects/lockr/subprojects
mkdir -p "$work/subprojects/xxHash-0.8.3" "$work/subprojects/expected-1.3.1/include" "$work/subprojects/nlohmann_json-3.11.3"
cp "$subprojects/packagefiles/xxhash/meson.build" "$work/subprojects/xxHash-0.8.3"
cp "$subprojects/packagefiles/tl-expected/meson.build" "$work/subprojects/expected-1.3.1"
printf '#define XXH_STATIC_LINKING_ONLY\n#define XXH_IMPLEMENTATION\n#include <xxhash.h>\n' \
  >"$work/subprojects/xxHash-0.8.3/xxhash.c"
cat >"$work/subprojects/nlohmann_json-3.11.3/meson.build" <<'END'
project('nlohmann_json', 'cpp', version: '3.11.3')
nlohmann_json_dep = declare_dependency()
END
wraps=libxxhash,tl-expected,nlohmann_json

for library in shared static; do
  build=$work/build-$library
  [ $library = static ] && fallbacks=lockr,$wraps || fallbacks=lockr
  meson setup "$build" "$work" --force-fallback-for="$fallbacks" --fatal-meson-warnings -Doptimization=0 \
    -Dlockr:default_library=$library
  ninja -C "$build" consumer
  "$build/consumer"
  ldd "$build/consumer" | grep -q liblockr && found=shared || found=static
  [ $found = $library ]
done
