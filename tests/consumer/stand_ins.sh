# Sourced. What takes the place of the fetched sources of the wraps: this machine's own headers. The wraps, and the build
# files that they bring, are the real ones.
wraps=libxxhash,tl-expected,nlohmann_json

# stand_in WRAPS FOLDER: puts them where Meson would unpack what it fetched.
stand_in() {
  mkdir -p "$2/xxHash-0.8.3" "$2/expected-1.3.1/include/tl" "$2/nlohmann_json-3.11.3"
  cp "$1/packagefiles/xxhash/meson.build" "$2/xxHash-0.8.3"
  cp "$1/packagefiles/tl-expected/meson.build" "$2/expected-1.3.1"
  cp /usr/include/tl/expected.hpp "$2/expected-1.3.1/include/tl"
  cat >"$2/xxHash-0.8.3/xxhash.c" <<'END'
#define XXH_STATIC_LINKING_ONLY
#define XXH_IMPLEMENTATION
#include <xxhash.h>
END
  cat >"$2/nlohmann_json-3.11.3/meson.build" <<'END'
project('nlohmann_json', 'cpp', version: '3.11.3')
nlohmann_json_dep = declare_dependency()
END
}

# stand_in_more WRAPS FOLDER: the same for hiredis and GoogleTest; there is no code in them.
stand_in_more() {
  mkdir -p "$2/hiredis-1.2.0" "$2/googletest-1.17.0/googletest/src" "$2/googletest-1.17.0/googletest/include"
  cp -r "$1/packagefiles/hiredis/." "$2/hiredis-1.2.0"
  cp -r "$1/packagefiles/gtest/." "$2/googletest-1.17.0"
  for file in alloc.c async.c hiredis.c net.c read.c sds.c sockcompat.c alloc.h async.h hiredis.h read.h sds.h; do
    echo "typedef int lockr_stand_in;" >"$2/hiredis-1.2.0/$file"
  done
  touch "$2/googletest-1.17.0/googletest/src/gtest-all.cc" "$2/googletest-1.17.0/googletest/src/gtest_main.cc"
}
