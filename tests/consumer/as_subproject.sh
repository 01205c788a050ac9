#!/bin/sh
# usage: as_subproject.sh SOURCE_FOLDER
# Builds and runs a project of its own that has lockr as a Meson subproject, as a shared library, and as an archive with
# what it needs from the wraps; the archive without the backends for servers, as they take nothing from those wraps.
set -eu
source=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cp -r "$source/tests/consumer/program/." "$work"
mkdir -p "$work/subprojects/lockr"
for part in meson.build meson_options.txt include core backends subprojects; do
  cp -r "$source/$part" "$work/subprojects/lockr"
done

. "$source/tests/consumer/stand_ins.sh"
stand_in "$work/subprojects/lockr/subprojects" "$work/subprojects"

for library in shared static; do
  build=$work/build-$library
  fallbacks=lockr options=
  [ $library = shared ] || fallbacks=lockr,$wraps options='-Dlockr:postgres=disabled -Dlockr:redis=disabled'
  meson setup "$build" "$work" --force-fallback-for="$fallbacks" --fatal-meson-warnings -Doptimization=0 \
    -Dlockr:default_library=$library $options
  ninja -C "$build" consumer
  "$build/consumer"
  ldd "$build/consumer" | grep -q liblockr && found=shared || found=static
  [ $found = $library ]
done
