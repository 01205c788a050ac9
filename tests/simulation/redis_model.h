// RedisModel: a Redis server without a network and without time of its own: the commands that the backend sends and
// that its scripts call. The scripts are those that the real server gets; they run in Lua here, too.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "lockr/spi/runtime.h"

struct lua_State;

namespace lockr::testing {

using spi::Time;
using RedisCommand = std::vector<std::string>;

class RedisModel {
 public:
  /// `clock`: the server's wall clock.
  explicit RedisModel(std::function<Time()> clock);
  RedisModel(const RedisModel&) = delete;
  RedisModel& operator=(const RedisModel&) = delete;
  ~RedisModel();

  /// A connection, as the server has it.
  struct Client {
    int process = 0;                               ///< Whose it is.
    std::string channel{};                         ///< What it listens to.
    std::function<void(std::string bytes)> say{};  ///< Sends it a reply or a message.
  };
  /// Carries one command out, and replies.
  void execute(Client& client, const RedisCommand& command);
  /// For messages: those that listen.
  void listen(Client& client) { listeners_.push_back(&client); }
  void gone(Client& client) { std::erase(listeners_, &client); }

  /// Another process of the server: without scripts and, unless it `keeps` them, without data.
  void restart(bool keeps);
  void flush_scripts() { known_.clear(); }
  void remove(const std::string& name) { data_.erase(name); }

  /// Whose lock it is: the processes that took it and have not given it back, as far as it has not run out.
  std::set<int> owners(const std::string& lock);
  /// What there is whose name starts like that.
  std::vector<std::string> names(const std::string& start);

 private:
  struct Value;
  struct Entry {
    bool is_set = false;
    std::string text{};
    std::map<std::string, double> members{};  // Of a sorted set: scores.
    std::optional<std::int64_t> expires{};    // Milliseconds.
    std::map<std::string, int> takers{};      // Who wrote a text or a member.
  };
  using Words = std::vector<std::string>;

  std::int64_t now() const;  // Milliseconds.
  Entry* find(const std::string& name);
  Value run(const Words& words);
  Value run_text(const std::string& name, const Words& words);
  Value run_set(const std::string& name, const Words& words);
  Value set(const Words& words);
  Value time() const;
  Value publish(const Words& words);
  Value eval(const Words& words);
  static int call(lua_State* lua);
  static int pcall(lua_State* lua);
  int call_from(lua_State* lua, bool raises);
  static void push(lua_State* lua, const Value& value);
  static Value pop(lua_State* lua);

  const std::function<Time()> clock_;
  lua_State* const lua_;
  std::map<std::string, Entry> data_;
  std::set<std::string> known_;          // Digests of scripts.
  std::map<std::string, int> compiled_;  // Their places in Lua's registry.
  std::vector<Client*> listeners_;
  Client* client_ = nullptr;  // Whose command is carried out.
  std::uint64_t run_ = 1;
};

}  // namespace lockr::testing
