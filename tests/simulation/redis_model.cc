#include "tests/simulation/redis_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <lua.hpp>

#include "backends/redis/scripts.h"

namespace lockr::testing {

struct RedisModel::Value {
  enum class Kind : std::uint8_t { nil, integer, status, error, text, list };
  Kind kind = Kind::nil;
  std::int64_t integer = 0;
  std::string text{};
  std::vector<Value> items{};

  static Value of(std::int64_t number) { return {.kind = Kind::integer, .integer = number}; }
  static Value of(std::string bytes) { return {.kind = Kind::text, .text = std::move(bytes)}; }
  static Value ok(std::string word = "OK") { return {.kind = Kind::status, .text = std::move(word)}; }
  static Value error(std::string words) { return {.kind = Kind::error, .text = std::move(words)}; }
  static Value list(std::vector<Value> items) { return {.kind = Kind::list, .items = std::move(items)}; }

  std::string bytes() const {
    switch (kind) {
      case Kind::nil:
        return "$-1\r\n";
      case Kind::integer:
        return ":" + std::to_string(integer) + "\r\n";
      case Kind::status:
        return "+" + text + "\r\n";
      case Kind::error:
        return "-" + text + "\r\n";
      case Kind::text:
        return "$" + std::to_string(text.size()) + "\r\n" + text + "\r\n";
      case Kind::list:
        break;
    }
    std::string all = "*" + std::to_string(items.size()) + "\r\n";
    for (const Value& each : items) all += each.bytes();
    return all;
  }
};

namespace {

[[noreturn]] void unknown(const std::string& what) {
  std::fprintf(stderr, "the model of Redis does not know %s\n", what.c_str());
  std::abort();
}

std::string score_text(double score) {
  std::array<char, 40> text{};
  std::snprintf(text.data(), text.size(), "%.17g", score);
  return text.data();
}

/// "-inf", "(5", "7": the least score that is within, or the most.
struct Bound {
  double score;
  bool open;
};
Bound bound_of(const std::string& text) {
  const bool open = text.starts_with('(');
  return {std::strtod(text.c_str() + (open ? 1 : 0), nullptr), open};
}
bool within(double score, const Bound& least, const Bound& most) {
  return (least.open ? score > least.score : score >= least.score) &&
         (most.open ? score < most.score : score <= most.score);
}

}  // namespace

RedisModel::RedisModel(std::function<Time()> clock) : clock_(std::move(clock)), lua_(luaL_newstate()) {
  luaL_openlibs(lua_);
  lua_newtable(lua_);
  for (const auto& [name, function] : {std::pair("call", &RedisModel::call), std::pair("pcall", &RedisModel::pcall)}) {
    lua_pushlightuserdata(lua_, this);
    lua_pushcclosure(lua_, function, 1);
    lua_setfield(lua_, -2, name);
  }
  lua_setglobal(lua_, "redis");
}

RedisModel::~RedisModel() { lua_close(lua_); }

std::int64_t RedisModel::now() const { return std::chrono::duration_cast<std::chrono::milliseconds>(clock_()).count(); }

RedisModel::Entry* RedisModel::find(const std::string& name) {
  const auto found = data_.find(name);
  if (found == data_.end()) return nullptr;
  if (found->second.expires && *found->second.expires <= now()) {
    data_.erase(found);
    return nullptr;
  }
  return &found->second;
}

void RedisModel::execute(Client& client, const RedisCommand& command) {
  client_ = &client;
  std::string reply;
  if (command[0] == "SUBSCRIBE") {
    client.channel = command[1];
    listen(client);
    reply = Value::list({Value::of(std::string("subscribe")), Value::of(command[1]), Value::of(1)}).bytes();
  } else {
    reply = run(command).bytes();
  }
  client_ = nullptr;
  client.say(std::move(reply));
}

void RedisModel::restart(bool keeps) {
  if (!keeps) data_.clear();
  known_.clear();
  listeners_.clear();
  ++run_;
}

std::set<int> RedisModel::owners(const std::string& lock) {
  std::set<int> all;
  const Entry* entry = find(lock);
  if (!entry) return all;
  if (!entry->is_set) {
    if (!entry->text.starts_with("r ")) all.insert(entry->takers.at(entry->text));
    return all;
  }
  for (const auto& [member, score] : entry->members) {
    if (!member.starts_with("r ") && score > static_cast<double>(now())) all.insert(entry->takers.at(member));
  }
  return all;
}

std::vector<std::string> RedisModel::names(const std::string& start) {
  std::vector<std::string> found;
  for (const auto& [name, entry] : std::map(data_)) {
    if (name.starts_with(start) && find(name)) found.push_back(name);
  }
  return found;
}

// ---- commands

RedisModel::Value RedisModel::run(const Words& words) {
  const std::string& verb = words[0];
  if (verb == "EVAL" || verb == "EVALSHA") return eval(words);
  if (verb == "ROLE") return Value::list({Value::of(std::string("master")), Value::of(0), Value::list({})});
  if (verb == "CLIENT" || verb == "SELECT") return Value::ok();
  if (verb == "SCAN") {  // SCAN 0 MATCH start*
    std::vector<Value> found;
    for (const std::string& name : names(words[3].substr(0, words[3].size() - 1))) found.push_back(Value::of(name));
    return Value::list({Value::of(std::string("0")), Value::list(std::move(found))});
  }
  if (verb == "TIME") return time();
  if (verb == "INFO") {
    return Value::of("# Server\r\nredis_version:7.0.15\r\nrun_id:" + std::to_string(run_) +
                     "\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\ncluster_enabled:0\r\n");
  }
  if (verb == "PUBLISH" || verb == "PUBSUB") return publish(words);
  if (verb == "MSETNX") {
    for (std::size_t i = 1; i < words.size(); i += 2) {
      if (find(words[i])) return Value::of(0);
    }
    for (std::size_t i = 1; i < words.size(); i += 2) set({"SET", words[i], words[i + 1]});
    return Value::of(1);
  }
  if (verb == "DEL") return Value::of(find(words[1]) ? static_cast<std::int64_t>(data_.erase(words[1])) : 0);
  const Entry* entry = find(words[1]);
  if (verb == "EXISTS") return Value::of(entry ? 1 : 0);
  if (verb == "TYPE") return Value::ok(!entry ? "none" : entry->is_set ? "zset" : "string");
  if (verb == "PTTL") return Value::of(!entry ? -2 : entry->expires ? *entry->expires - now() : -1);
  if (verb == "PEXPIRE") {
    if (!entry) return Value::of(0);
    find(words[1])->expires = now() + std::stoll(words[2]);
    return Value::of(1);
  }
  if (verb.starts_with("Z")) return run_set(words[1], words);
  return run_text(words[1], words);
}

RedisModel::Value RedisModel::time() const {
  const auto microseconds = std::chrono::duration_cast<std::chrono::microseconds>(clock_()).count();
  return Value::list(
      {Value::of(std::to_string(microseconds / 1'000'000)), Value::of(std::to_string(microseconds % 1'000'000))});
}

RedisModel::Value RedisModel::publish(const Words& words) {
  const std::string& channel = words[0] == "PUBLISH" ? words[1] : words[2];
  std::int64_t count = 0;
  for (Client* each : listeners_) {
    if (each->channel != channel) continue;
    ++count;
    if (words[0] == "PUBLISH") {
      each->say(Value::list({Value::of(std::string("message")), Value::of(channel), Value::of(words[2])}).bytes());
    }
  }
  if (words[0] == "PUBLISH") return Value::of(count);
  return Value::list({Value::of(channel), Value::of(count)});
}

RedisModel::Value RedisModel::set(const Words& words) {
  Entry made{.text = words[2]};
  for (std::size_t i = 3; i < words.size(); ++i) {
    if (words[i] == "NX" && find(words[1])) return {};
    if (words[i] == "PX") made.expires = now() + std::stoll(words[i + 1]);
  }
  made.takers[words[2]] = client_->process;
  data_[words[1]] = std::move(made);
  return Value::ok();
}

RedisModel::Value RedisModel::run_text(const std::string& name, const Words& words) {
  Entry* const entry = find(name);
  if (words[0] == "SET") return set(words);
  if (entry && entry->is_set) return Value::error("WRONGTYPE Operation against a key holding the wrong kind of value");
  if (words[0] == "GET") return entry ? Value::of(entry->text) : Value();
  if (words[0] != "INCRBY") unknown(words[0]);
  const std::int64_t sum = (entry ? std::stoll(entry->text) : 0) + std::stoll(words[2]);
  data_[name].text = std::to_string(sum);
  return Value::of(sum);
}

RedisModel::Value RedisModel::run_set(const std::string& name, const Words& words) {
  const std::string& verb = words[0];
  if (find(name) && !find(name)->is_set) {
    return Value::error("WRONGTYPE Operation against a key holding the wrong kind of value");
  }
  if (verb == "ZADD") {
    const bool only_new = words[2] == "NX";
    const bool only_old = words[2] == "XX";
    const std::size_t at = only_new || only_old ? 3 : 2;
    if (only_old && !find(name)) return Value::of(0);
    Entry& entry = data_[name];
    entry.is_set = true;
    const bool known = entry.members.contains(words[at + 1]);
    if (known ? only_new : only_old) return Value::of(0);
    entry.members[words[at + 1]] = std::strtod(words[at].c_str(), nullptr);
    if (!known) entry.takers[words[at + 1]] = client_->process;
    return Value::of(known ? 0 : 1);
  }
  Entry* const entry = find(name);
  if (verb == "ZSCORE") {
    const bool there = entry && entry->members.contains(words[2]);
    return there ? Value::of(score_text(entry->members[words[2]])) : Value();
  }
  if (!entry) return verb == "ZRANGE" || verb == "ZRANGEBYSCORE" ? Value::list({}) : Value::of(0);
  if (verb == "ZREM" || verb == "ZREMRANGEBYSCORE") {
    const auto removed = static_cast<std::int64_t>(std::erase_if(entry->members, [&](const auto& each) {
      return verb == "ZREM" ? each.first == words[2] : within(each.second, bound_of(words[2]), bound_of(words[3]));
    }));
    if (entry->members.empty()) data_.erase(name);
    return Value::of(removed);
  }
  std::vector<std::pair<double, std::string>> sorted;
  for (const auto& [member, score] : entry->members) sorted.emplace_back(score, member);
  std::sort(sorted.begin(), sorted.end());
  std::vector<Value> rows;
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    const bool wanted = verb == "ZRANGE" ? words[3] == "-1" || static_cast<std::int64_t>(i) <= std::stoll(words[3])
                                         : within(sorted[i].first, bound_of(words[2]), bound_of(words[3]));
    if (wanted) rows.push_back(Value::of(sorted[i].second));
  }
  if (verb != "ZRANGE" && verb != "ZRANGEBYSCORE") unknown(verb);
  return Value::list(std::move(rows));
}

// ---- scripts

RedisModel::Value RedisModel::eval(const Words& words) {
  std::string digest = words[1];
  if (words[0] == "EVAL") {
    for (std::size_t i = 0; i < redis::kScripts; ++i) {
      const auto script = static_cast<redis::Script>(i);
      if (redis::text_of(script) == words[1]) digest = redis::digest_of(script);
    }
    known_.insert(digest);
    if (!compiled_.contains(digest)) {
      if (luaL_loadbuffer(lua_, words[1].data(), words[1].size(), "script") != 0) unknown(lua_tostring(lua_, -1));
      compiled_[digest] = luaL_ref(lua_, LUA_REGISTRYINDEX);
    }
  }
  if (!known_.contains(digest)) return Value::error("NOSCRIPT No matching script. Please use EVAL.");
  const std::size_t keys = std::stoul(words[2]);
  for (const char* name : {"KEYS", "ARGV"}) {
    lua_newtable(lua_);
    const bool is_keys = name[0] == 'K';
    const std::size_t first = is_keys ? 3 : 3 + keys;
    const std::size_t last = is_keys ? 3 + keys : words.size();
    for (std::size_t i = first; i < last; ++i) {
      lua_pushlstring(lua_, words[i].data(), words[i].size());
      lua_rawseti(lua_, -2, static_cast<int>(i - first + 1));
    }
    lua_setglobal(lua_, name);
  }
  lua_rawgeti(lua_, LUA_REGISTRYINDEX, compiled_[digest]);
  if (lua_pcall(lua_, 0, 1, 0) != 0) unknown(std::string("why a script fails: ") + lua_tostring(lua_, -1));
  return pop(lua_);
}

int RedisModel::call(lua_State* lua) {
  return static_cast<RedisModel*>(lua_touserdata(lua, lua_upvalueindex(1)))->call_from(lua, true);
}
int RedisModel::pcall(lua_State* lua) {
  return static_cast<RedisModel*>(lua_touserdata(lua, lua_upvalueindex(1)))->call_from(lua, false);
}

int RedisModel::call_from(lua_State* lua, bool raises) {
  bool failed = false;
  {
    Words words;
    for (int i = 1; i <= lua_gettop(lua); ++i) {
      if (lua_type(lua, i) == LUA_TNUMBER) {
        words.push_back(score_text(lua_tonumber(lua, i)));
      } else {
        std::size_t size = 0;
        const char* const text = lua_tolstring(lua, i, &size);
        words.emplace_back(text, size);
      }
    }
    const Value value = run(words);
    failed = raises && value.kind == Value::Kind::error;
    if (failed) {
      lua_pushlstring(lua, value.text.data(), value.text.size());
    } else {
      push(lua, value);
    }
  }
  return failed ? lua_error(lua) : 1;  // Jumps: nothing may be left to destroy.
}

void RedisModel::push(lua_State* lua, const Value& value) {
  switch (value.kind) {
    case Value::Kind::nil:
      return lua_pushboolean(lua, 0);
    case Value::Kind::integer:
      return lua_pushnumber(lua, static_cast<lua_Number>(value.integer));
    case Value::Kind::text:
      return lua_pushlstring(lua, value.text.data(), value.text.size());
    case Value::Kind::status:
    case Value::Kind::error:
      lua_newtable(lua);
      lua_pushlstring(lua, value.text.data(), value.text.size());
      return lua_setfield(lua, -2, value.kind == Value::Kind::error ? "err" : "ok");
    case Value::Kind::list:
      lua_newtable(lua);
      for (std::size_t i = 0; i < value.items.size(); ++i) {
        push(lua, value.items[i]);
        lua_rawseti(lua, -2, static_cast<int>(i + 1));
      }
  }
}

RedisModel::Value RedisModel::pop(lua_State* lua) {
  Value value;
  switch (lua_type(lua, -1)) {
    case LUA_TNUMBER:
      value = Value::of(static_cast<std::int64_t>(std::trunc(lua_tonumber(lua, -1))));
      break;
    case LUA_TSTRING: {
      std::size_t size = 0;
      const char* const text = lua_tolstring(lua, -1, &size);
      value = Value::of(std::string(text, size));
      break;
    }
    case LUA_TBOOLEAN:
      if (lua_toboolean(lua, -1) != 0) value = Value::of(1);
      break;
    case LUA_TTABLE:
      value.kind = Value::Kind::list;
      for (int i = 1;; ++i) {
        lua_rawgeti(lua, -1, i);
        if (lua_isnil(lua, -1)) {
          lua_pop(lua, 1);
          break;
        }
        value.items.push_back(pop(lua));
      }
      break;
    default:
      break;
  }
  lua_pop(lua, 1);
  return value;
}

}  // namespace lockr::testing
