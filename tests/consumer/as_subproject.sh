#!/bin/sh
# usage: as_subproject.sh SOURCE_FOLDER
# Builds and runs a project of its own that has lockr as a Meson subproject.
set -eu
source=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cp -r "$source/tests/consumer/program/." "$work"
mkdir -p "$work/subprojects/lockr"
for part in meson.build meson_options.txt include core backends; do
  cp -r "$source/$part" "$work/subprojects/lockr"
done

meson setup "$work/build" "$work" --force-fallback-for=lockr --fatal-meson-warnings -Doptimization=0
ninja -C "$work/build" consumer
"$work/build/consumer"
