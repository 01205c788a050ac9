#!/bin/sh
# usage: installed.sh SOURCE_FOLDER BUILD_FOLDER PREFIX LIBDIR
# Installs what is built under a folder of its own, and uses it from there as strangers to the source do: a program and a
# backend, with pkg-config alone, Meson and CMake, shared and static.
set -eu
source=$1 build=$2 prefix=$3 libdir=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { printf '\n== %s\n' "$*"; }

DESTDIR=$work/tree meson install -C "$build" --no-rebuild --quiet
installed=$work/tree$prefix
export PKG_CONFIG_PATH="$installed/$libdir/pkgconfig" LD_LIBRARY_PATH="$installed/$libdir"
cp -r "$installed/share/lockr/template" "$source/tests/consumer/program" "$source/tests/consumer/cmake_program" "$work"
cd "$work"

say "pkg-config alone"
compiler=${CXX:-c++}
pkg-config --print-errors --exists 'lockr >= 0.1' lockr-spi lockr-conformance
$compiler -std=c++20 program/main.cc $(pkg-config --cflags --libs lockr) -o shared
backends=$(pkg-config --variable=backends lockr)
case ",$backends," in *,memory,*) ;; *) echo "backends: $backends" && exit 1 ;; esac
# Until 1.0 the soversion is major.minor.
soversion=$(pkg-config --modversion lockr | cut -d. -f1-2)
ldd ./shared | grep -F "liblockr.so.$soversion => $installed/$libdir/liblockr.so.$soversion "
./shared
$compiler -std=c++20 program/main.cc $(pkg-config --static --cflags --libs lockr | sed 's/-llockr/-l:liblockr.a/') -o static
[ -z "$(ldd ./static | grep liblockr)" ]
./static
$compiler -std=c++20 -fno-exceptions -fno-rtti program/main.cc $(pkg-config --cflags --libs lockr) -o bare
./bare

if [ -e "$(pkg-config --variable=includedir lockr)/lockr/postgres.h" ]; then
  $compiler -std=c++20 program/postgres.cc $(pkg-config --cflags --libs lockr) -o postgres
  ./postgres
  $compiler -std=c++20 program/postgres.cc $(pkg-config --static --cflags --libs lockr | sed 's/-llockr/-l:liblockr.a/') \
    -o postgres_static
  ./postgres_static
fi

say "The torture of a backend"
if [ -x "$installed/bin/lockr-torture" ]; then
  "$installed/bin/lockr-torture" --backend memory: --workers 1 --threads 4 --seconds 1
  cat >file.json <<END
{"backend": "file", "file": {"directory": "$work/locks"}}
END
  "$installed/bin/lockr-torture" --config file.json --seconds 1 --seed 7
fi

say "Meson: the program"
meson setup build-shared program --fatal-meson-warnings -Doptimization=0
meson setup build-static program -Doptimization=0 -Dprefer_static=true
for library in shared static; do
  ninja -C build-$library
  build-$library/consumer
done
ldd build-shared/consumer | grep -q liblockr
[ -z "$(ldd build-static/consumer | grep liblockr)" ]

say "Meson: the backend, built and proven"
meson setup build-template template --fatal-meson-warnings -Doptimization=0
ninja -C build-template
"$source/tests/modules/symbols.sh" build-template/lockr_socket.so
build-template/socket_conformance --gtest_brief=1
if build-template/socket_conformance --gtest_filter=-'*' >nothing 2>&1; then
  echo "a run of no case passed" && exit 1
fi
# An engine that can't be reached: no case may be left out in silence.
if (ulimit -n 5; build-template/socket_conformance --gtest_filter='*Exclusion*') >unreachable 2>&1; then
  cat unreachable && echo "a run without its engine passed" && exit 1
fi

say "CMake"
cmake -S cmake_program -B build-cmake -DCMAKE_PREFIX_PATH="$installed" -DCMAKE_BUILD_TYPE=Debug \
  -DCONSUMER_BACKENDS="$(echo "$backends" | tr , ';')"
cmake --build build-cmake
build-cmake/consumer
build-cmake/consumer_static
[ -z "$(ldd build-cmake/consumer_static | grep liblockr)" ]
build-cmake/socket_conformance --gtest_brief=1 --gtest_filter='*Exclusion*:*Unsupported*'
# Until 1.0 a minor version fits itself alone.
mkdir versions
cat >versions/CMakeLists.txt <<'END'
cmake_minimum_required(VERSION 3.25)
project(versions LANGUAGES CXX)
foreach(wanted 0.1 0.1.0 0.0 0.2 1.0)
  find_package(lockr ${wanted} QUIET CONFIG)
  string(APPEND found " ${wanted}=${lockr_FOUND}")
endforeach()
message(STATUS "found:${found}")
END
cmake -S versions -B build-versions -DCMAKE_PREFIX_PATH="$installed" | tee found
grep -Fx -e '-- found: 0.1=1 0.1.0=1 0.0=0 0.2=0 1.0=0' found
# Without the libraries that an archive needs.
PKG_CONFIG=/bin/false cmake -S cmake_program -B build-bare -DCMAKE_PREFIX_PATH="$installed" >bare 2>&1
grep -q "lockr's archive is not there" bare
cmake --build build-bare
build-bare/consumer

say "the installed program"
[ ! -x "$installed/bin/lockr" ] || env -u LD_LIBRARY_PATH "$installed/bin/lockr" --version
