// A service as it goes to production: its engine comes from a config file with references to the environment, an
// observer and a log hook tell what happens, each error leads to what can be done about it, and counters say how it
// went.
#include <lockr/lockr.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <mutex>
#include <string>

using namespace std::chrono_literals;

namespace {

// What an operator would put in place.
void write_config(const std::string& path) {
  std::ofstream(path) << R"({
    "backend": "file",
    "namespace": "billing",
    "label": "billing ${SERVICE_VERSION}",
    "acquire_timeout": "2s",
    "require": ["cross_process", "fencing"],
    "file": { "directory": "${LOCKR_DIR}" }
  })";
}

// [observer]
// Hears what nobody asked for, on a thread of the library: be short.
class Metrics final : public lockr::Observer {
 public:
  void on_event(const lockr::Event& event) noexcept override {
    const std::lock_guard lock(mutex_);
    switch (event.kind) {
      case lockr::Event::Kind::lost:          // alarm: work under this key may have overlapped
      case lockr::Event::Kind::not_released:  // alarm: the engine says that we did not hold it, or could not free it
        std::cerr << event.key << " of " << event.label << ": " << event.error->to_string() << '\n';
        return;
      case lockr::Event::Kind::long_wait:
        std::cerr << event.label << " has waited for " << event.key << " for " << lockr::format_duration(event.duration)
                  << '\n';
        return;
      case lockr::Event::Kind::reconnected:
        return;
      case lockr::Event::Kind::released:  // only as wants_held_times() is true
        held_for_ += event.duration;
        return;
    }
  }
  bool wants_held_times() const noexcept override { return true; }

 private:
  std::mutex mutex_;
  std::chrono::nanoseconds held_for_{0};
};
// [observer]

lockr::Result<std::unique_ptr<lockr::Locker>> open_locker(const std::string& path, std::shared_ptr<Metrics> metrics) {
  // [open]
  auto config = lockr::LockerConfig::from_file(path);
  if (!config) return lockr::fail(config.error());  // names the place in the file
  auto log = [](lockr::LogLevel level, std::string_view line) {
    if (level >= lockr::LogLevel::warning) std::cerr << line << '\n';
  };
  return lockr::open(*config, {.observer = metrics, .log = log});
  // [open]
}

// [errors]
enum class Outcome { done, later, give_up };

Outcome send_invoice(lockr::Session& session) {
  auto held = session.lock({"tenant", "42", "invoice"}, {.timeout = 200ms});
  if (held) return Outcome::done;
  const lockr::Error& error = held.error();
  std::cerr << error.to_string() << '\n';
  switch (error.code()) {
    case lockr::errc::timeout:         // somebody else is at it
    case lockr::errc::session_closed:  // we are shutting down
      return Outcome::later;
    case lockr::errc::deadlock:  // give back what is held before trying anew
      return Outcome::give_up;
    default:
      return error.retryable() ? Outcome::later : Outcome::give_up;
  }
}
// [errors]

// Who has the invoice, as `lockr who` prints it.
bool print_holders(lockr::Locker& locker) {
  // [inspect]
  const auto key = lockr::Key::parse("tenant:42:invoice").value();
  auto holders = locker.inspect(&key);  // without a key: of all
  if (!holders) return false;
  for (const lockr::Holder& holder : *holders)
    std::cout << holder.key << (holder.waiting ? " is waited for by " : " is held by ") << holder.label << ", process "
              << holder.pid << " on " << holder.host << '\n';
  // [inspect]
  return holders->size() == 1 && holders->front().key == "billing:tenant:42:invoice";
}

bool serve(lockr::Locker& locker) {
  auto session = locker.open_session().value();
  auto other = locker.open_session({.label = "night shift"}).value();
  auto held = other->lock({"tenant", "42", "invoice"}).value();
  if (send_invoice(*session) != Outcome::later || !print_holders(locker)) return false;
  if (!held.release() || send_invoice(*session) != Outcome::done) return false;

  const lockr::Stats stats = locker.stats();
  std::cout << stats.acquired << " acquired, " << stats.timeouts << " timed out, " << stats.held << " held\n";
  return stats.acquired == 2 && stats.timeouts == 1 && stats.held == 0 && session->label() == "billing 1.4";
}

}  // namespace

int main() {
  ::setenv("SERVICE_VERSION", "1.4", 1);
  if (std::getenv("LOCKR_DIR") == nullptr) ::setenv("LOCKR_DIR", "/tmp/lockr-example", 1);
  const std::string path = std::filesystem::temp_directory_path() / ("lockr-service-" + std::to_string(::getpid()));
  write_config(path);
  auto locker = open_locker(path, std::make_shared<Metrics>());
  std::filesystem::remove(path);
  if (!locker) {
    std::cerr << locker.error().to_string() << '\n';
    return 1;
  }
  return serve(**locker) && (*locker)->close() ? 0 : 1;
}
