// RedisCloud: one model of a Redis server and the networks of the processes that use it, on the simulator's time. What
// goes wrong on the way is told to it: delays, connections that break, networks that pass nothing on for a while,
// processes that stand still, a server that is slow, restarts or has another clock.
#pragma once

#include <hiredis/hiredis.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backends/redis/network.h"
#include "tests/simulation/redis_model.h"
#include "tests/simulation/sim_runtime.h"

namespace lockr::testing {

class RedisCloud {
 public:
  struct Options {
    Time latency{0};        ///< At most, each way.
    double clock_rate = 1;  ///< Of the server's clock against ours.
    Time clock_ahead{0};
  };
  RedisCloud(SimRuntime& sim, Options options);
  ~RedisCloud();

  /// The network of one process. The cloud outlives it.
  std::unique_ptr<redis::Network> network(int process);

  // ---- mishaps

  /// What the process sends, or is sent, is held back until then.
  void clog(int process, bool outgoing, Time until);
  void unclog(int process);
  /// All of that is over.
  void recover();
  /// When a command was last carried out whose connection had been given up.
  Time served_the_gone() const noexcept { return served_the_gone_; }
  /// The process does nothing until then.
  void pause(int process, Time until) { prolong(hosts_[process]->paused_until, until); }
  Time paused_until(int process) { return hosts_[process]->paused_until; }
  /// Its connections break; what is on its way to the server may arrive or not.
  void cut(int process);
  /// The server does nothing until then.
  void stall(Time until) { prolong(stalled_until_, until); }
  /// It ends, and begins anew after a while.
  void restart(bool keeps, Time down);
  void set_clock(Time ahead) { options_.clock_ahead += ahead; }
  RedisModel& server() { return server_; }

 private:
  friend class SimStream;
  friend class SimNetwork;

  struct Host {
    int number = 0;
    Time paused_until{0};
    Time outgoing_held_until{0};
    Time incoming_held_until{0};
    std::atomic<std::uint32_t> changes{0};  // Its network's sleep parks on it.
    bool woken = false;
  };
  struct Arrival {
    Time at;
    std::string bytes;
  };
  struct Sent {
    Time at;
    RedisCommand command;  // Empty: the client has hung up.
  };
  /// One connection.
  struct Wire {
    Wire() : reader(redisReaderCreate(), redisReaderFree) {}
    Host* host = nullptr;
    RedisModel::Client client;
    std::unique_ptr<redisReader, void (*)(redisReader*)> reader;  // Of what the client sends.
    std::deque<Sent> outbox{};
    std::deque<Arrival> inbox{};
    Time last_sent{0};  // When the last of what was sent arrives: order is kept.
    Time last_said{0};
    bool client_ended = false;
    bool server_ended = false;
    std::atomic<std::uint32_t> changes{0};  // Who receives parks on it.
  };

  // What sleeps until then need not be woken.
  static void prolong(Time& moment, Time until) { moment = std::max(moment, until); }
  std::shared_ptr<Wire> open(Host& host);
  void send(Wire& wire, std::string_view bytes);
  void hang_up(Wire& wire);
  void post(Wire& wire, RedisCommand command);
  void say(Wire& wire, std::string bytes);
  void end(Wire& wire);
  void tell(Wire& wire);
  void tell(Host& host);
  void serve();
  Time due(const Wire& wire) const;
  void serve(std::size_t wire);
  Time latency();
  Time server_clock() const;

  SimRuntime& sim_;
  Options options_;
  RedisModel server_;
  std::map<int, std::unique_ptr<Host>> hosts_;
  std::vector<std::shared_ptr<Wire>> wires_;
  std::atomic<std::uint32_t> posted_{0};
  Time stalled_until_{0};
  Time down_until_{0};
  Time served_the_gone_{0};
  bool over_ = false;
  std::unique_ptr<spi::Runtime::Thread> servant_;
};

}  // namespace lockr::testing
