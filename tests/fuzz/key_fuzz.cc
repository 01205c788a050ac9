// Keys: whatever bytes they are made of, a key is its string, and a refusal says why.
#include <algorithm>
#include <string>
#include <vector>

#include "lockr/key.h"
#include "tests/fuzz/fuzz.h"

namespace lockr::fuzz {
namespace {

constexpr std::size_t kMostBytes = 1024;

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> scopes;
  if (text.empty()) return scopes;
  for (;;) {
    const std::size_t colon = text.find(':');
    scopes.push_back(text.substr(0, colon));
    if (colon == text.npos) return scopes;
    text.remove_prefix(colon + 1);
  }
}

void check(std::string_view text) {
  const std::vector<std::string_view> scopes = split(text);
  const bool good = !text.empty() && text.size() <= kMostBytes &&
                    std::none_of(scopes.begin(), scopes.end(), [](std::string_view scope) { return scope.empty(); });
  const auto key = Key::parse(text);
  const auto made = Key::from_scopes(scopes);
  expect(key.has_value() == good && made.has_value() == good, "a key is refused for the reasons that are documented");
  if (!key) {
    expect_sentence(key.error());
    expect(key.error().code() == errc::invalid_key, "a bad key is invalid_key");
    expect(key.error().message() == made.error().message(), "a string and its scopes are refused alike");
    return;
  }
  expect(key->string() == text && key->scopes() == scopes, "a key has the bytes that it was made of");
  expect(*key == *made && key->hash() == made->hash(), "a string and its scopes are one key");
  Key copy = *key;
  const Key moved = std::move(copy);
  expect(moved == *key && copy.empty(), "a key is copied and moved whole");  // NOLINT(bugprone-use-after-move)
  const auto inner = key->prefixed("fuzz");
  expect(inner.has_value() == (text.size() + 5 <= kMostBytes), "a prefix counts too");
  if (inner) expect(inner->string() == "fuzz:" + std::string(text), "a prefix is the first scope");
}

}  // namespace
}  // namespace lockr::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  lockr::fuzz::check({reinterpret_cast<const char*>(data), size});
  return 0;
}
