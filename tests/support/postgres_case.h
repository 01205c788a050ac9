// What the tests of the PostgreSQL backend have in common.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "lockr/lockr.h"
#include "tests/support/eventually.h"
#include "tests/support/postgres_server.h"

namespace lockr::testing {

/// For what must happen, however slow the machine is.
inline constexpr std::chrono::seconds kPostgresPatience{20};

/// What pg_advisory_lock takes for the key.
inline std::string bigint(const Key& key) { return std::to_string(static_cast<std::int64_t>(key.hash())); }

/// Opens a locker, or throws std::runtime_error; `fields` of the section, behind the dsn, and `top` level ones start
/// with a comma.
inline std::unique_ptr<Locker> open_postgres(const std::string& dsn, const std::string& fields = {},
                                             const std::string& top = {}, OpenOptions options = {}) {
  auto config = LockerConfig::from_json(R"({"backend": "postgres", "postgres": {"dsn": ")" + dsn + "\"" + fields + "}" +
                                        top + "}");
  if (!config) throw std::runtime_error(config.error().to_string());
  auto opened = open(*config, std::move(options));
  if (!opened) throw std::runtime_error(opened.error().to_string());
  return *std::move(opened);
}

/// Whether a result is an error of this code.
template <class T>
::testing::AssertionResult is_error(const Result<T>& result, errc code) {
  if (result) return ::testing::AssertionFailure() << "it succeeded, where " << name_of(code) << " was expected";
  if (result.error().code() == code) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << name_of(code) << " was expected, it is " << result.error().to_string();
}

}  // namespace lockr::testing
