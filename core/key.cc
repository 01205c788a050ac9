#include "lockr/key.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <string>

namespace lockr {
namespace {

tl::unexpected<Error> invalid(std::string message) { return fail(errc::invalid_key, std::move(message)); }

tl::unexpected<Error> invalid(std::size_t scope, std::string_view fault) {
  return invalid("scope " + std::to_string(scope) + " of the key (counted from 0) " + std::string(fault));
}

tl::unexpected<Error> no_scope() {
  return invalid("the key has no scope; give it one or more, for example \"tenant:42\"");
}

constexpr std::string_view kEmpty = "is empty; leave it out or give it at least one byte";
constexpr std::string_view kColon = "contains ':', which separates scopes; split it or use another character";
constexpr std::string_view kTooLong = "takes the key over 1,024 bytes, the colons between scopes included; shorten it";
static_assert(Key::kMaxBytes == 1024);

}  // namespace

Result<Key> Key::from_scopes(std::span<const std::string_view> scopes) {
  if (scopes.empty()) return no_scope();
  char text[kMaxBytes];
  std::size_t size = 0;
  for (std::size_t i = 0; i < scopes.size(); ++i) {
    const std::string_view scope = scopes[i];
    if (scope.empty()) return invalid(i, kEmpty);
    if (scope.find(':') != scope.npos) return invalid(i, kColon);
    const std::size_t colon = i > 0 ? 1 : 0;
    if (scope.size() > kMaxBytes || size + colon + scope.size() > kMaxBytes) return invalid(i, kTooLong);
    if (colon > 0) text[size] = ':';
    std::memcpy(text + size + colon, scope.data(), scope.size());
    size += colon + scope.size();
  }
  return make({text, size});
}

Result<Key> Key::from_scopes(std::initializer_list<std::string_view> scopes) {
  return from_scopes(std::span<const std::string_view>(scopes.begin(), scopes.size()));
}

Result<Key> Key::parse(std::string_view text) {
  if (text.empty()) return no_scope();
  std::size_t scope = 0;
  for (std::size_t start = 0;; ++scope) {
    const std::size_t end = std::min(text.find(':', start), text.size());
    if (end == start) return invalid(scope, kEmpty);
    if (end > kMaxBytes) return invalid(scope, kTooLong);
    if (end == text.size()) return make(text);
    start = end + 1;
  }
}

Result<Key> Key::prefixed(std::string_view scope) const {
  if (empty()) return fail(Error(errc::invalid_key));
  std::vector<std::string_view> all{scope};
  const auto rest = scopes();
  all.insert(all.end(), rest.begin(), rest.end());
  return from_scopes(all);
}

std::vector<std::string_view> Key::scopes() const {
  std::vector<std::string_view> scopes;
  std::string_view rest = string();
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(':'), rest.size());
    scopes.push_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return scopes;
}

const Key& Key::none() noexcept {
  static const Key empty(Store{}, 0);
  return empty;
}

Key Key::make(std::string_view text) {
  const std::uint64_t hash = XXH3_64bits(text.data(), text.size());
  Store store;
  if (text.size() <= kInside) {
    std::memcpy(store.text, text.data(), text.size());
    store.size = static_cast<std::uint8_t>(text.size());
    return {store, hash};
  }
  void* memory = ::operator new(sizeof(Rep) + text.size());
  const auto* rep = new (memory) Rep{1, static_cast<std::uint32_t>(text.size())};
  std::memcpy(static_cast<char*>(memory) + sizeof(Rep), text.data(), text.size());
  const auto address = reinterpret_cast<std::uintptr_t>(rep);
  std::memcpy(store.text, &address, sizeof address);
  store.size = kShared;
  return {store, hash};
}

void Key::destroy(const Rep* rep) noexcept {
  rep->~Rep();
  ::operator delete(const_cast<Rep*>(rep));
}

}  // namespace lockr
