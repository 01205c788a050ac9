// Configs: JSON and URLs of any bytes are a config within its ranges or an error with its place; nothing is opened.
#include <chrono>
#include <string>

#include "lockr/config.h"
#include "lockr/registry.h"
#include "tests/fuzz/fuzz.h"

namespace lockr::fuzz {
namespace {

void check(const Result<LockerConfig>& config) {
  if (!config) {
    expect_sentence(config.error());
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
  if (!fits) expect_sentence(fits.error());
}

}  // namespace
}  // namespace lockr::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  lockr::fuzz::Input input(data, size);
  if (input.byte() == 'u') {
    lockr::fuzz::check(lockr::LockerConfig::from_url(input.rest()));
  } else {
    lockr::fuzz::check(lockr::LockerConfig::from_json(input.rest()));
  }
  return 0;
}
