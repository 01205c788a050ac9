#include "lockr/key.h"

#include <gtest/gtest.h>

#include <charconv>
#include <cstdlib>
#include <fstream>
#include <iomanip>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/fails_with.h"

namespace lockr {
namespace {

using Views = std::vector<std::string_view>;

struct Golden {
  std::string key;
  std::uint64_t hash;
  std::int64_t bigint;
};

std::string alphabet(std::size_t size) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>('a' + i % 26);
  return text;
}

// Every byte that a scope may have, in order.
std::string every_byte() {
  std::string text;
  for (int byte = 0; byte < 256; ++byte) {
    if (byte != ':') text += static_cast<char>(byte);
  }
  return text;
}

// Numbers printed by the reference implementation's program, `xxhsum -H3` 0.8.1.
std::vector<Golden> golden_vectors() {
  return {
      {"tenant", 0x9fcbf6c95446b4a4, -6932175856843967324},
      {"tenant:42", 0x865e2a5252f94ca5, -8764521291748651867},
      {"tenant:42:invoice", 0xce459d06e8459712, -3583285275511122158},
      {"org:7:user:1001", 0xb93e3ff4acc19459, -5098567408033885095},
      {"straße:7", 0x73a2466eacb57bf3, 8332299701746760691},
      {"鍵", 0x53efe716c312ac30, 6048306909529943088},
      {alphabet(1), 0xe6c632b61e964e1f, -1817709641818812897},
      {alphabet(2), 0xa873719c24d5735c, -6308573737569127588},
      {alphabet(3), 0x78af5f94892f3950, 8696274497037089104},
      {alphabet(4), 0x6497a96f53a89890, 7248448420886124688},
      {alphabet(8), 0x6f45a76842a96483, 8017998777839871107},
      {alphabet(9), 0xe0dde4fc174590a0, -2243385267987312480},
      {alphabet(16), 0x3d3ccac9af14d8a8, 4412624702490859688},
      {alphabet(17), 0xca7f3571df47cacf, -3855303992812254513},
      {alphabet(128), 0x3e99edc6c76f21c6, 4510897939793519046},
      {alphabet(129), 0x852cb20608c9d2c7, -8850503428702874937},
      {alphabet(240), 0xea0e0f78188232ed, -1581309410678787347},
      {alphabet(241), 0xbb0a906af5b5c211, -4969000449786658287},
      {alphabet(512), 0x169887a206a45c62, 1628200395260320866},
      {alphabet(1024), 0x5e6a406e127165a8, 6803321028596557224},
      {every_byte(), 0x548a07f6ecdd82e6, 6091690203089306342},
  };
}

TEST(Key, hashes_equal_the_reference_implementation) {
  for (const Golden& golden : golden_vectors()) {
    const auto key = Key::parse(golden.key);
    ASSERT_TRUE(key) << golden.key;
    EXPECT_EQ(key->hash(), golden.hash) << golden.key.size() << " bytes: " << golden.key;
    EXPECT_EQ(static_cast<std::int64_t>(key->hash()), golden.bigint) << golden.key;
  }
}

// The rows under "Golden vectors" are | `key` or alphabet | bytes | `hash` | `bigint` |
TEST(Key, the_documented_vectors_are_those_of_the_code) {
  const char* root = std::getenv("LOCKR_SOURCE_ROOT");
  ASSERT_NE(root, nullptr) << "run the tests with meson test, or set LOCKR_SOURCE_ROOT";
  std::ifstream file(std::string(root) + "/docs/keys.md");
  ASSERT_TRUE(file) << "docs/keys.md can't be read";
  std::size_t rows = 0;
  for (std::string line; line != "## Golden vectors";) ASSERT_TRUE(std::getline(file, line));
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("| `") && !line.starts_with("| alphabet")) continue;
    SCOPED_TRACE(line);
    std::vector<std::string> cells;
    std::istringstream stream(line);
    for (std::string cell; std::getline(stream, cell, '|');) cells.push_back(cell);
    ASSERT_EQ(cells.size(), 5u);
    const auto bare = [&](std::size_t i) {
      std::string text = cells[i].substr(1, cells[i].size() - 2);
      return text.starts_with('`') ? text.substr(1, text.size() - 2) : text;
    };
    const std::size_t size = std::stoul(bare(2));
    const auto key = Key::parse(bare(1) == "alphabet" ? alphabet(size) : bare(1));
    ASSERT_TRUE(key);
    EXPECT_EQ(key->string().size(), size);
    std::ostringstream hash;
    hash << std::hex << std::setw(16) << std::setfill('0') << key->hash();
    EXPECT_EQ(bare(3), hash.str());
    EXPECT_EQ(bare(4), std::to_string(static_cast<std::int64_t>(key->hash())));
    ++rows;
  }
  EXPECT_EQ(rows, golden_vectors().size() - 1) << "every vector but that of all bytes is a row";
}

TEST(Key, joins_scopes_with_colons) {
  const auto key = Key::from_scopes({"tenant", "42", "invoice"});
  ASSERT_TRUE(key);
  EXPECT_EQ(key->string(), "tenant:42:invoice");
  EXPECT_EQ(key->scopes(), (Views{"tenant", "42", "invoice"}));
  EXPECT_EQ(*key, Key::parse("tenant:42:invoice").value());
  EXPECT_FALSE(key->empty());
}

TEST(Key, allows_every_byte_but_the_colon) {
  const std::string bytes = every_byte();
  const auto key = Key::from_scopes({bytes, "x"});
  ASSERT_TRUE(key);
  EXPECT_EQ(key->string(), bytes + ":x");
  EXPECT_EQ(key->scopes(), (Views{bytes, "x"}));
}

TEST(Key, refuses_no_scope) {
  constexpr auto kMessage = "the key has no scope; give it one or more, for example \"tenant:42\"";
  EXPECT_TRUE(fails_with(errc::invalid_key, kMessage, Key::from_scopes({})));
  EXPECT_TRUE(fails_with(errc::invalid_key, kMessage, Key::parse("")));
}

TEST(Key, refuses_an_empty_scope_and_names_its_index) {
  const auto message = [](int scope) {
    return "scope " + std::to_string(scope) +
           " of the key (counted from 0) is empty; leave it out or give it at least one byte";
  };
  EXPECT_TRUE(fails_with(errc::invalid_key, message(0), Key::from_scopes({""})));
  EXPECT_TRUE(fails_with(errc::invalid_key, message(1), Key::from_scopes({"a", "", "b"})));
  EXPECT_TRUE(fails_with(errc::invalid_key, message(0), Key::parse(":")));
  EXPECT_TRUE(fails_with(errc::invalid_key, message(1), Key::parse("a::b")));
  EXPECT_TRUE(fails_with(errc::invalid_key, message(2), Key::parse("a:b:")));
}

TEST(Key, refuses_a_colon_in_a_scope_and_names_its_index) {
  EXPECT_TRUE(fails_with(errc::invalid_key,
                         "scope 1 of the key (counted from 0) contains ':', which separates scopes; split it or use "
                         "another character",
                         Key::from_scopes({"tenant", "4:2"})));
}

TEST(Key, refuses_more_than_1024_bytes_and_names_the_scope_that_passes_them) {
  const auto message = [](int scope) {
    return "scope " + std::to_string(scope) +
           " of the key (counted from 0) takes the key over 1,024 bytes, the colons between scopes included; shorten "
           "it";
  };
  EXPECT_TRUE(Key::parse(alphabet(1024)));
  EXPECT_TRUE(fails_with(errc::invalid_key, message(0), Key::parse(alphabet(1025))));
  EXPECT_TRUE(fails_with(errc::invalid_key, message(0), Key::from_scopes({alphabet(1025)})));
  EXPECT_TRUE(Key::from_scopes({"a", alphabet(1022)}));
  EXPECT_TRUE(fails_with(errc::invalid_key, message(1), Key::from_scopes({"a", alphabet(1023)})));
  EXPECT_TRUE(fails_with(errc::invalid_key, message(1), Key::parse("a:" + alphabet(1023) + ":b")));
  EXPECT_TRUE(fails_with(errc::invalid_key, message(2), Key::from_scopes({"a", alphabet(1022), "b"})));
}

TEST(Key, can_be_prefixed) {
  const Key key = Key::parse("a:b").value();
  EXPECT_EQ(key.prefixed("ns").value().string(), "ns:a:b");
  EXPECT_EQ(key.prefixed("").error().code(), errc::invalid_key);
  EXPECT_EQ(key.prefixed(alphabet(1021)).error().code(), errc::invalid_key);
  EXPECT_EQ(Key::none().prefixed("ns").error().code(), errc::invalid_key);
}

// Up to 23 bytes lie inside a Key; copies of a longer one share theirs.
std::vector<Key> keys_of_many_sizes() {
  std::vector<Key> keys;
  for (const std::size_t size : {1, 8, 22, 23, 24, 25, 255, 256, 1024})
    keys.push_back(Key::parse(alphabet(size)).value());
  return keys;
}

TEST(Key, copies_are_equal_and_outlive_what_they_were_copied_from) {
  for (Key& key : keys_of_many_sizes()) {
    const std::string text(key.string());
    auto original = std::make_unique<Key>(std::move(key));
    const Key copy = *original;
    EXPECT_EQ(copy.string().data() == original->string().data(), text.size() > 23);
    EXPECT_EQ(copy, *original);
    original.reset();
    EXPECT_EQ(copy.string(), text);
    EXPECT_EQ(copy, Key::parse(text).value());
  }
}

TEST(Key, assignment_replaces_a_key_of_any_size) {
  for (const Key& from : keys_of_many_sizes()) {
    for (Key& to : keys_of_many_sizes()) {
      to = from;
      EXPECT_EQ(to.string(), from.string());
      Key& self = to;
      to = self;
      EXPECT_EQ(to.string(), from.string());
      to = Key::none();
      EXPECT_TRUE(to.empty());
    }
  }
}

TEST(Key, a_move_leaves_the_empty_key) {
  for (Key& key : keys_of_many_sizes()) {
    const std::string text(key.string());
    const Key moved = std::move(key);
    EXPECT_EQ(moved.string(), text);
    EXPECT_TRUE(key.empty());
    EXPECT_EQ(key, Key::none());
    EXPECT_EQ(key.string(), "");
    EXPECT_EQ(key.hash(), 0u);
  }
}

TEST(Key, orders_by_hash_then_string) {
  const Key a = Key::parse("tenant:42").value();  // 0x865e…
  const Key b = Key::parse("tenant").value();     // 0x9fcb…
  const Key c = Key::parse(alphabet(1)).value();  // 0xe6c6…
  EXPECT_LT(a, b);
  EXPECT_LT(b, c);
  EXPECT_EQ(a <=> Key::parse("tenant:42").value(), std::strong_ordering::equal);
  EXPECT_LT(Key::none(), a);
}

TEST(Key, is_shared_by_threads) {
  std::vector<std::thread> threads;
  {
    const Key key = Key::parse("shared").value();
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([key] {
        for (int round = 0; round < 1000; ++round) {
          Key copy = key;
          EXPECT_EQ(Key(std::move(copy)).string(), "shared");
        }
      });
    }
  }
  for (auto& thread : threads) thread.join();
}

}  // namespace
}  // namespace lockr
