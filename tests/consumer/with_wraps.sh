#!/bin/sh
# usage: with_wraps.sh SOURCE_FOLDER
# Builds and installs lockr with what it needs from the wraps, and uses what is installed: all of it has to be inside. Of
# the backends one is left out and one is a module, and all that is installed says so.
set -eu
source=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
. "$source/tests/consumer/stand_ins.sh"

mkdir "$work/lockr"
for part in meson.build meson_options.txt include core backends subprojects cmake cli docs examples tests benchmarks; do
  cp -r "$source/$part" "$work/lockr"
done
stand_in "$work/lockr/subprojects" "$work/lockr/subprojects"
meson setup "$work/build" "$work/lockr" --force-fallback-for="$wraps" -Doptimization=0 --prefix "$work/tree" \
  -Dpostgres=disabled -Dmodules=file -Dcli=disabled -Dexamples=disabled -Dtests=disabled -Dbenchmarks=disabled
meson install -C "$work/build"

libdir=$(meson introspect "$work/build" --buildoptions | /usr/bin/python3 -c '
import json, sys
print(next(option["value"] for option in json.load(sys.stdin) if option["name"] == "libdir"))')
export PKG_CONFIG_PATH="$work/tree/$libdir/pkgconfig" LD_LIBRARY_PATH="$work/tree/$libdir"
cd "$work"
cp -r "$source/tests/consumer/program" "$source/tests/consumer/cmake_program" "$source/examples/backend_template" .
mv backend_template template
[ -f tree/include/tl/expected.hpp ]
c++ -std=c++20 program/main.cc $(pkg-config --static --cflags --libs lockr | sed 's/-llockr/-l:liblockr.a/') -o static
[ -z "$(ldd ./static | grep 'liblockr\|xxhash')" ]
./static

[ "$(pkg-config --variable=modules lockr)" = file ]
case ",$(pkg-config --variable=left_out lockr)," in *,postgres,*) ;; *) exit 1 ;; esac
[ -f "$work/tree/$libdir/lockr/lockr_file.so" ]
c++ -std=c++20 program/refusal.cc $(pkg-config --cflags --libs lockr) -o refusal
# refused BACKEND MESSAGE
refused() {
  said=$(./refusal "$1")
  [ "$said" = "unknown_backend: $2" ] || { echo "$1: $said" && exit 1; }
}
refused postgres 'the backend "postgres" was left out when this lockr was built (disabled); build lockr with -Dpostgres=enabled'
refused file 'the backend "file" was left out when this lockr was built (it is a module); name its file in "plugin"'
./refusal postgresql | grep -q '; left out when this lockr was built: .*postgres (disabled)'

c++ -std=c++20 -shared -fPIC -fvisibility=hidden template/socket_backend.cc $(pkg-config --cflags --libs lockr-spi) -o module.so
[ -z "$(ldd ./module.so | grep xxhash)" ]
"$source/tests/modules/symbols.sh" module.so
cmake -S cmake_program -B build-cmake -DCMAKE_PREFIX_PATH="$work/tree"
cmake --build build-cmake --target consumer consumer_static lockr_socket
build-cmake/consumer_static
if cmake -S cmake_program -B build-postgres -DCMAKE_PREFIX_PATH="$work/tree" -DCONSUMER_BACKENDS=postgres >postgres 2>&1; then
  echo "CMake found a backend that was left out" && exit 1
fi
tr -s ' \n' ' ' <postgres | grep 'the backend postgres is not in this lockr (.*; modules: file; left out: .*postgres (disabled)'

# What only some need. Nothing of it is beside an installed lockr, and the kit is not installed without its GoogleTest.
stand_in_more lockr/subprojects lockr/subprojects
if pkg-config --exists libssl; then
  meson setup build-more lockr --force-fallback-for="$wraps,hiredis,gtest,gtest_main" --wrap-mode=nodownload --prefix "$work/more" \
    -Dredis=enabled -Dpostgres=disabled -Dcli=disabled -Dexamples=disabled -Dtests=enabled -Dbenchmarks=disabled
  ninja -C build-more subprojects/hiredis-1.2.0/libhiredis.a subprojects/googletest-1.17.0/libgtest_main.a
  [ -f build-more/subprojects/hiredis-1.2.0/hiredis/hiredis.h ]
  grep -q '^Libs.private:.* -l:libssl.so' build-more/meson-private/lockr.pc
  [ -z "$(grep hiredis build-more/meson-private/lockr.pc build-more/cmake/lockr-config.cmake)" ]
  [ ! -e build-more/meson-private/lockr-conformance.pc ]
fi
