// FakeCore: a Sink that writes down what a backend tells, for tests of a backend without the core.
#pragma once

#include <algorithm>
#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "lockr/spi/backend.h"

namespace lockr::testing {

class FakeCore final : public spi::Sink {
 public:
  /// A request for a key; it stays valid as long as this object.
  spi::Request& request(spi::Op op, std::string_view key, Mode mode = Mode::exclusive) {
    Key made = Key::parse(key).value();
    requests_.push_back({made, {}});
    spi::Request& request = requests_.back().request;
    request.op = op;
    request.mode = mode;
    request.key = &requests_.back().key;
    request.identity = made.hash();
    request.label = "fake";
    return request;
  }
  /// A request that gives back, or yields, what `granted` got.
  spi::Request& request(spi::Op op, const spi::Request& granted) {
    spi::Request& made = request(op, granted.key->string(), granted.mode);
    made.seat = granted.seat;
    return made;
  }

  void done(spi::Request& request) noexcept override {
    done_.push_back(&request);
    if (on_done) on_done(request);
  }
  void hint(std::uint64_t identity) noexcept override { hints.push_back(identity); }
  void alive(spi::Seat seat, spi::Time valid_until) noexcept override { alives.push_back({seat, valid_until}); }
  void lost(spi::Seat seat, const Key* key, const Error& error) noexcept override {
    losses.push_back({seat, key ? std::string(key->string()) : std::string(), error.code()});
  }
  void reconnected() noexcept override { ++reconnects; }
  std::vector<Holder> describe() noexcept override { return {}; }

  /// How often the request was answered.
  std::size_t answers(const spi::Request& request) const {
    return static_cast<std::size_t>(std::count(done_.begin(), done_.end(), &request));
  }

  struct Loss {
    spi::Seat seat;
    std::string key;  // Empty: everything.
    errc code;
  };
  struct Alive {
    spi::Seat seat;
    spi::Time valid_until;
  };
  std::vector<std::uint64_t> hints;
  std::vector<Alive> alives;
  std::vector<Loss> losses;
  int reconnects = 0;
  std::function<void(const spi::Request&)> on_done;

 private:
  struct Owned {
    Key key;
    spi::Request request;
  };
  std::deque<Owned> requests_;
  std::vector<const spi::Request*> done_;
};

}  // namespace lockr::testing
