// PollingBackend: three blocking calls make a backend.
//
// For an engine that can only be asked, one call at a time: a table of leases, a REST service, a file format. Its
// author writes take(), give_back() and renew(), each on a batch; seats, validity, renewal, the announcement of losses,
// groups, yielding and waiting are written here, once. Waiting is polling: a refused key is asked for again every
// `poll_interval`, so waiters of different processes are served in no order.
//
//     class TableBackend final : public lockr::spi::PollingBackend {
//      public:
//       explicit TableBackend(const OpenContext& context)
//           : PollingBackend(context.runtime, {.capabilities = {.backend = "table"}}, {.validity = 30s}) {}
//
//      private:
//       void take(std::span<Request* const> batch) override;       // INSERT … ON CONFLICT DO NOTHING
//       void give_back(std::span<Request* const> batch) override;  // DELETE … WHERE owner = us
//       Status renew(std::span<Held> batch) override;              // UPDATE … WHERE owner = us
//     };
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lockr/spi/backend.h"

namespace lockr::spi {

/// How a PollingBackend keeps and looks for locks.
struct PollingOptions {
  /// How long the engine keeps a grant that is not renewed, counted from when it serves the call; kNever: for ever, or
  /// as long as a connection that lose_all() speaks for.
  Time validity = kNever;
  /// How much earlier we stop believing in it: covers the clock's drift against the engine's. 0: a tenth.
  Time margin{0};
  /// How often renew() is called. 0: a third of the validity, and never without a validity.
  Time renew_every{0};
  /// Between two looks at a key that somebody else holds, give or take a quarter.
  Time poll_interval = std::chrono::milliseconds(20);
};

/// A Backend over three blocking calls. The public side is the core's; derive from it and write the protected one.
///
/// Calls of take(), give_back(), renew(), connect() and disconnect() are serialised: never two at once, so the derived
/// class needs no mutex of its own for them. Each blocks for as long as the engine takes to answer, at most about
/// reply_timeout (it is the derived class that gives up then), and never for a lock's holder: a release waits for at
/// most the one call that is under way. inspect() may come at any time, from any thread.
///
/// An exception out of one of them is a `backend_failure`: requests that take() or give_back() had answered by then
/// keep their answers, the others are `unknown`; renew() counts as not done.
class LOCKR_API PollingBackend : public Backend {
 public:
  /// `traits.lanes` and `seats` are set to one here: what many threads ask at once goes to take() and give_back() as
  /// one batch.
  PollingBackend(Runtime& runtime, Traits traits, PollingOptions options);
  ~PollingBackend() override;

  Status open(Sink& sink, Time until) noexcept final;
  const Traits& traits() const noexcept final;
  void submit(std::uint16_t link, std::span<Request* const> batch) noexcept final;
  bool collect(std::uint16_t link, Time until) noexcept final;
  void pump(Time until) noexcept final;
  void wake() noexcept final;
  void close(Time until) noexcept final;

  /// No row: the core tells of this process itself. Override it where the engine can tell of others.
  Result<std::vector<Holder>> inspect(const Key* key, Time until) override;
  /// Does nothing. Override it to close descriptors; async-signal-safe.
  void forked() noexcept override;

 protected:
  /// One lock that is held at the engine.
  struct Held {
    Key key;
    std::uint64_t identity;
    Mode mode;
    std::uint64_t token;
    bool lost = false;  ///< Set by renew() when the engine says that we do not hold it.
  };

  /// Connects and probes, once. `until`: steady clock. The base does nothing.
  virtual Status connect(Time until);

  /// Tries to take request->mode of each, whoever it belongs to in this process. Sets each request's `answer`:
  /// `granted`, with `token` where Traits::fencing; `refused`; `failed` with `error` when it is certainly not held;
  /// `unknown` with `error` when that can't be told. `ask_again` (steady clock) may be set too: after a refusal when it
  /// is known that the key will be free; after `unknown` it must be when the engine can no longer hold it for us,
  /// unless that is the validity. The requests stand on their own; groups are resolved here.
  virtual void take(std::span<Request* const> batch) = 0;

  /// Gives each back. Sets `answer`: `released`; `not_held` when the engine says so; `failed` or `unknown` as above.
  virtual void give_back(std::span<Request* const> batch) = 0;

  /// Renews everything that is held, at most Traits::batch at a time. Sets `lost` of what the engine no longer holds
  /// for us. An error: the engine could not be asked; it is tried again, and at the end of their validity they are
  /// lost.
  virtual Status renew(std::span<Held> batch) = 0;

  /// Says, from inside one of the calls above, that everything held is lost: the connection that kept it ended.
  void lose_all(Error reason) noexcept;

  /// Gives up the connection. The base does nothing.
  virtual void disconnect();

  Runtime& runtime() const noexcept;

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace lockr::spi
