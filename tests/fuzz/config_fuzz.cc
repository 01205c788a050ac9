// Configs: JSON and URLs of any bytes are a config within its ranges or an error with its place; nothing is opened.
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <string>
#include <string_view>

#include "lockr/config.h"
#include "lockr/registry.h"
#include "tests/fuzz/fuzz.h"

namespace lockr::fuzz {
namespace {

constexpr std::string_view kSecret = "hunter2-s3cr3t";

/// Of an error in what has the secret in it.
void expect_no_secret(const Error& error) {
  expect(error.message().find(kSecret) == std::string::npos && error.native().find(kSecret) == std::string_view::npos,
         "no error repeats a secret");
}

/// It names the field by its pointer, or the line, or says that the whole is of the wrong kind.
bool names_place(std::string_view message, bool is_url) {
  if (is_url) return message.find("URL") != message.npos;
  return message.starts_with('/') || message.starts_with("the config is not JSON at line ") ||
         message.starts_with("expected an object") || message.starts_with(": ");
}

void check(const Result<LockerConfig>& config, bool is_url) {
  if (!config) {
    expect_sentence(config.error());
    expect_no_secret(config.error());
    expect(names_place(config.error().message(), is_url), "a bad config is told where");
    const errc code = config.error().code();
    expect(code == errc::invalid_config || code == errc::access_denied || code == errc::unsupported,
           "a bad config is invalid_config, or names a file that can't be read");
    return;
  }
  using namespace std::chrono_literals;
  expect(!config->backend().empty(), "a config names a backend");
  expect(config->label().size() <= 128, "a label is within its limit");
  expect(config->acquire_timeout() >= 0s, "a timeout is no negative number");
  for (const auto timeout : {config->connect_timeout(), config->reply_timeout(), config->release_timeout()}) {
    expect(timeout >= 1ms && timeout <= 1h, "a timeout is within its range");
  }
  // A plugin would be loaded: of what is on this machine the fuzzer shall not run anything.
  if (!config->plugin().empty()) return;
  const Status fits = Registry::builtin().check(*config);
  if (fits) return;
  expect_sentence(fits.error());
  expect_no_secret(fits.error());
}

/// Configs with a secret where secrets belong, and around it what the input says.
void check_secret(Input& input) {
  const std::size_t kind = input.below(6);
  const std::string rest(input.rest());
  const std::string secret(kSecret);
  switch (kind) {
    case 0:
      return check(LockerConfig::from_url("redis://u:" + secret + "@" + rest), true);
    case 1:
      return check(LockerConfig::from_url("postgresql://u:" + secret + "@" + rest), true);
    case 2:
      return check(LockerConfig::from_url("postgresql:" + rest + "?password=" + secret), true);
    case 3:
      return check(LockerConfig::from_json(R"({"backend": "redis", "redis": {"password": ")" + secret + "\"" + rest),
                   false);
    case 4:
      return check(LockerConfig::from_json(R"({"backend": "postgres", "postgres": {"dsn": "password=)" + secret + rest),
                   false);
    default:
      // By reference, wherever the input has one.
      ::setenv("HIDDEN", secret.c_str(), 1);
      return check(LockerConfig::from_json(rest), false);
  }
}

std::chrono::nanoseconds processor_time() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

}  // namespace
}  // namespace lockr::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // An input that knows the secret may well see it again: in a field's name, which errors show.
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (text.find(lockr::fuzz::kSecret) != text.npos) return 0;
  lockr::fuzz::Input input(data, size);
  const auto started = lockr::fuzz::processor_time();
  switch (input.byte()) {
    case 'u':
      lockr::fuzz::check(lockr::LockerConfig::from_url(input.rest()), true);
      break;
    case 's':
      lockr::fuzz::check_secret(input);
      break;
    default:
      lockr::fuzz::check(lockr::LockerConfig::from_json(input.rest()), false);
  }
  lockr::fuzz::expect(lockr::fuzz::processor_time() - started < std::chrono::milliseconds(500),
                      "a config is read in no time");
  return 0;
}
