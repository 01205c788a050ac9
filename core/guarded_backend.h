// A backend that this library was not built with: its exceptions end it, not the program.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/park_mutex.h"
#include "lockr/spi/backend.h"

namespace lockr::core {

using spi::Time;

/// Passes every call on. After an exception the backend is *broken*: it is left alone until the last call inside it has
/// returned; then what it holds is told to be lost, it is closed, so that the engine holds nothing either, and what it
/// was asked for and had not answered is answered as failed. Whatever is asked for later fails at once.
class GuardedBackend final : public spi::Backend, private spi::Sink {
 public:
  GuardedBackend(std::string name, std::unique_ptr<spi::Backend> backend, spi::Runtime& runtime, LogHook log);

  Status open(spi::Sink& sink, Time until) noexcept override;
  const spi::Traits& traits() const noexcept override { return inner_->traits(); }
  void submit(std::uint16_t link, std::span<spi::Request* const> batch) noexcept override;
  bool collect(std::uint16_t link, Time until) noexcept override;
  bool start_wait(spi::Request& request) noexcept override;
  void stop_wait(spi::Request& request) noexcept override;
  bool wanted_elsewhere(std::uint64_t identity) noexcept override;
  void pump(Time until) noexcept override;
  void wake() noexcept override;
  Result<std::vector<Holder>> inspect(const Key* key, Time until) noexcept override;
  Result<std::vector<Descriptor>> descriptors(spi::Seat seat, const Key& key) noexcept override;
  void close(Time until) noexcept override;
  void before_fork() noexcept override { inner_->before_fork(); }
  void after_fork() noexcept override { inner_->after_fork(); }
  void forked() noexcept override { inner_->forked(); }

 private:
  void done(spi::Request& request) noexcept override;
  void hint(std::uint64_t identity) noexcept override { sink_->hint(identity); }
  void alive(spi::Seat seat, Time valid_until) noexcept override { sink_->alive(seat, valid_until); }
  void lost(spi::Seat seat, const Key* key, const Error& error) noexcept override;
  void reconnected() noexcept override { sink_->reconnected(); }
  std::vector<Holder> describe() noexcept override { return sink_->describe(); }

  struct SeatHash {
    std::size_t operator()(const spi::Seat& seat) const noexcept { return std::size_t{seat.life} << 16 | seat.link; }
  };

  void count(const spi::Request& request, const spi::Seat& before);
  bool enter(std::span<spi::Request* const> batch);
  void leave();
  template <class Call>
  bool guarded(const char* call_name, std::span<spi::Request* const> batch, Call call);
  Error failure(const char* call_name) const;
  Error out_of_use();
  void broke(Error error);
  bool ended();
  bool end();
  void end_now();
  void wait_until_left();

  const std::string name_;
  const std::unique_ptr<spi::Backend> inner_;
  spi::Runtime& runtime_;
  const LogHook log_;
  spi::Sink* sink_ = nullptr;
  std::atomic<std::uint32_t> left_{0};    // Counts calls that left a broken backend.
  std::atomic<std::uint32_t> pumped_{0};  // Counts wake().
  std::uint32_t pump_seen_ = 0;           // Service thread only: what pumped_ was when pump() returned last.

  ParkMutex ending_;
  std::mutex mutex_;
  // Guarded by mutex_.
  unsigned inside_ = 0;                                         // Calls in either direction that have not returned.
  std::unordered_map<spi::Request*, spi::Seat> asked_;          // And the seat that each names.
  std::unordered_map<spi::Seat, std::size_t, SeatHash> seats_;  // How much is held on each.
  std::optional<Error> broken_;
  bool ended_ = false;
};

}  // namespace lockr::core
