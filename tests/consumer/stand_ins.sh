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
