#include "lockr/registry.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/builtin_backends.h"
#include "lockr/spi/backend.h"
#include "tests/unit/fails_with.h"

namespace lockr {
namespace {

using namespace std::chrono_literals;
using Strings = std::vector<std::string>;

/// What the scripted backend below was asked to be made of, last.
struct Seen {
  std::string label;
  spi::Time connect_timeout{};
  spi::Time reply_timeout{};
  spi::Runtime* runtime = nullptr;
  bool accepts = false;
};
Seen seen;

Result<std::unique_ptr<spi::Backend>> refuse(const spi::OpenContext& context) {
  seen = {.label = context.label,
          .connect_timeout = context.connect_timeout,
          .reply_timeout = context.reply_timeout,
          .runtime = &context.runtime,
          .accepts = context.accepts_risk("danger") && !context.accepts_risk("other")};
  context.log(LogLevel::warning, "about to refuse");
  return fail(context.section.invalid("door", "an open door"));
}

constexpr spi::BackendInfo kRefusing{
    .name = "refusing",
    .schemes = "refuse refuse+tls",
    .summary = "",
    .schema = "{}",
    .risks = "danger other",
    .create = refuse,
};
constexpr spi::BackendInfo kTableOnly{
    .name = "tables",
    .schemes = nullptr,
    .summary = "",
    .schema = "{}",
    .table_alone = true,
    .create = [](const spi::OpenContext&) -> Result<std::unique_ptr<spi::Backend>> { return nullptr; },
};

Registry refusing_registry() {
  Registry registry;
  EXPECT_TRUE(registry.add(kRefusing));
  EXPECT_TRUE(registry.add(kTableOnly));
  return registry;
}

LockerConfig json(std::string_view text) { return LockerConfig::from_json(text).value(); }

// What the message for an unknown backend adds where this library was built without some.
std::string and_left_out(std::string text) {
  const auto left_out = core::left_out_backends();
  if (!left_out.empty()) text += "; left out when this lockr was built: ";
  for (const auto& backend : left_out) {
    text += &backend == left_out.data() ? "" : ", ";
    text += std::string(backend.name) + " (" + std::string(backend.reason) + ")";
  }
  return text;
}

TEST(Registry, starts_empty) {
  const Registry registry;
  EXPECT_TRUE(registry.names().empty());
  EXPECT_EQ(registry.find("memory"), nullptr);
  EXPECT_TRUE(fails_with(errc::unknown_backend, and_left_out("there is no backend \"tables\"; none is known"),
                         registry.open(json(R"({"backend": "tables"})"))));
}

TEST(Registry, has_the_built_in_backends) {
  const Registry registry = Registry::builtin();
  const Strings names = registry.names();
  EXPECT_EQ(std::count(names.begin(), names.end(), "memory"), 1);
  const auto* memory = registry.find("memory");
  ASSERT_NE(memory, nullptr);
  EXPECT_STREQ(memory->name, "memory");
  for (const auto& name : names) EXPECT_EQ(registry.find(name)->spi_version, spi::kVersion);
}

TEST(Registry, finds_by_name_and_scheme) {
  const Registry registry = refusing_registry();
  EXPECT_EQ(registry.names(), (Strings{"refusing", "tables"}));
  EXPECT_EQ(registry.find("refusing"), &kRefusing);
  EXPECT_EQ(registry.find("refuse"), &kRefusing);
  EXPECT_EQ(registry.find("refuse+tls"), &kRefusing);
  EXPECT_EQ(registry.find("tables"), &kTableOnly);
  EXPECT_EQ(registry.find("refuse+"), nullptr);
  EXPECT_EQ(registry.find("refuse refuse+tls"), nullptr);
  EXPECT_EQ(registry.find(""), nullptr);
}

TEST(Registry, refuses_a_name_or_scheme_that_is_taken) {
  Registry registry = refusing_registry();
  EXPECT_TRUE(fails_with(errc::invalid_config,
                         "the backend \"refusing\" can't be added: \"refusing\" already stands for the backend "
                         "\"refusing\"",
                         registry.add(kRefusing)));
  spi::BackendInfo other = kTableOnly;
  other.name = "other";
  other.schemes = "other refuse+tls";
  EXPECT_TRUE(fails_with(errc::invalid_config,
                         "the backend \"other\" can't be added: \"refuse+tls\" already stands for the backend "
                         "\"refusing\"",
                         registry.add(other)));
  EXPECT_EQ(registry.names().size(), 2u);
}

TEST(Registry, refuses_another_version_of_the_interface) {
  Registry registry;
  spi::BackendInfo old = kRefusing;
  old.spi_version = spi::kVersion + 6;
  EXPECT_TRUE(fails_with(errc::incompatible_plugin,
                         "a backend was built for version 8 of lockr's plugin interface, this library has version 2; "
                         "build it again with these headers",
                         registry.add(old)));
  EXPECT_TRUE(registry.names().empty());
}

TEST(Registry, names_the_backends_there_are_for_an_unknown_one) {
  const Registry registry = refusing_registry();
  const std::string message =
      and_left_out("there is no backend \"table\"; the nearest known one is \"tables\" (known: refusing, tables)");
  EXPECT_TRUE(fails_with(errc::unknown_backend, message, registry.check(json(R"({"backend": "table"})"))));
  EXPECT_TRUE(fails_with(errc::unknown_backend, message, registry.open(json(R"({"backend": "table"})"))));
}

TEST(Registry, does_not_show_a_backend_that_came_by_reference) {
  ::setenv("LOCKR_TEST_BACKEND", "hunter2", 1);
  EXPECT_TRUE(fails_with(errc::unknown_backend,
                         and_left_out("there is no backend of the name that a reference brought, which is not shown; "
                                      "none is known"),
                         Registry().check(json(R"({"backend": "${LOCKR_TEST_BACKEND}"})"))));
  const auto misspelt = LockerConfig::from_json(R"({"backend": "${LOCKR_TEST_BACKEND}", "labl": "x"})");
  ASSERT_FALSE(misspelt);
  EXPECT_EQ(misspelt.error().message().find("hunter2"), std::string::npos) << misspelt.error().message();
}

TEST(Registry, does_not_repeat_the_url_of_an_unknown_backend) {
  const auto config = LockerConfig::from_url("tabel://user:hunter2@host").value();
  EXPECT_TRUE(fails_with(errc::unknown_backend,
                         and_left_out("there is no backend \"tabel\"; the nearest known one is \"tables\" (known: "
                                      "refusing, tables)"),
                         refusing_registry().check(config)));
}

TEST(Registry, lets_the_backend_read_its_section) {
  const Registry registry = refusing_registry();
  EXPECT_TRUE(fails_with(errc::invalid_config, "/refusing/door: expected an open door",
                         registry.check(json(R"({"backend": "refusing"})"))));
  EXPECT_TRUE(fails_with(errc::invalid_config, "the URL: expected an open door",
                         registry.check(LockerConfig::from_url("refuse://user:hunter2@host").value())));
}

TEST(Registry, only_a_backend_that_says_so_may_make_nothing) {
  const LockerConfig config = json(R"({"backend": "tables"})");
  const auto locker = refusing_registry().open(config);
  ASSERT_TRUE(locker);
  EXPECT_TRUE((*locker)->try_lock({"a"}));
  spi::BackendInfo careless = kTableOnly;
  careless.table_alone = false;
  Registry registry;
  ASSERT_TRUE(registry.add(careless));
  EXPECT_TRUE(
      fails_with(errc::incompatible_plugin, "the backend \"tables\" made nothing to open", registry.open(config)));
}

TEST(Registry, passes_config_and_options_to_the_backend) {
  class FakeRuntime final : public spi::Runtime {
   public:
    spi::Time steady_now() noexcept override { return {}; }
    spi::Time boot_now() noexcept override { return {}; }
    spi::Time wall_now() noexcept override { return {}; }
    void park(std::atomic<std::uint32_t>&, std::uint32_t, spi::Time) noexcept override {}
    void wake(const void*) noexcept override {}
    void park_among(std::atomic<std::uint32_t>&, std::uint32_t, std::uint32_t, spi::Time) noexcept override {}
    void wake_among(const void*, std::uint32_t) noexcept override {}
    std::uint64_t random() noexcept override { return 0; }
    std::unique_ptr<Thread> start(const char*, std::function<void()>) override { return nullptr; }
  } runtime;
  Strings lines;
  const auto log = [&](LogLevel level, std::string_view line) {
    EXPECT_EQ(level, LogLevel::warning);
    lines.emplace_back(line);
  };
  const auto config = json(R"({"backend": "refusing", "label": "me", "connect_timeout": "7s", "reply_timeout": "8s",
                               "accept_risk": ["danger"]})");
  EXPECT_FALSE(refusing_registry().open(config, {.log = log, .runtime = &runtime}));
  EXPECT_EQ(seen.label, "me");
  EXPECT_EQ(seen.connect_timeout, 7s);
  EXPECT_EQ(seen.reply_timeout, 8s);
  EXPECT_EQ(seen.runtime, &runtime);
  EXPECT_TRUE(seen.accepts);
  EXPECT_EQ(lines, Strings{"about to refuse"});

  EXPECT_FALSE(refusing_registry().open(config));
  EXPECT_EQ(seen.runtime, &spi::system_runtime());
}

TEST(Registry, refuses_a_risk_that_no_backend_has) {
  const Registry registry = refusing_registry();
  EXPECT_TRUE(fails_with(errc::invalid_config,
                         "/accept_risk/1: no risk that can be accepted; the nearest known one is \"danger\" (known: "
                         "danger, other, readable_config); found \"dagner\"",
                         registry.check(json(R"({"backend": "tables", "accept_risk": ["other", "dagner"]})"))));
  EXPECT_TRUE(fails_with(errc::invalid_config,
                         "the URL's parameter lockr.accept_risk.0: no risk that can be accepted; there is none like it "
                         "(known: danger, other, readable_config); found \"everything\"",
                         registry.open(LockerConfig::from_url("refuse:?lockr.accept_risk=everything").value())));
  EXPECT_TRUE(registry.check(json(R"({"backend": "tables", "accept_risk": ["danger"]})"))) << "of another backend";
}

TEST(Registry, opens_the_memory_backend) {
  const auto locker = open(LockerConfig::from_url("memory:").value());
  ASSERT_TRUE(locker) << locker.error().to_string();
  EXPECT_EQ((*locker)->capabilities().backend, "memory");
}

TEST(Registry, refuses_a_memory_url_with_more_in_it) {
  EXPECT_TRUE(fails_with(errc::invalid_config, "the URL: expected \"memory:\"; the memory backend takes nothing else",
                         open(LockerConfig::from_url("memory:/x").value())));
}

}  // namespace
}  // namespace lockr
