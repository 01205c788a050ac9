#include "backends/redis/handshake.h"

#include <charconv>
#include <cstdint>
#include <optional>
#include <utility>

#include "backends/redis/errors.h"

namespace lockr::redis {
namespace {

Result<Reply> ask(Connection& connection, const Arguments& command, std::string_view what, const Patience& patience) {
  auto reply = connection.ask(command, patience);
  if (!reply) return fail(reply.error());
  if ((*reply)->type == REDIS_REPLY_ERROR) return fail(from_reply(what, text_of(**reply)));
  return reply;
}

Status log_in(Connection& connection, const Options& options, const Greeting& greeting, const Patience& patience) {
  if (options.password.empty()) return {};
  if (connection.is_exposed() && !greeting.accept_clear_text) {
    return fail(errc::unsafe_setup,
                "the password would cross the network in clear text, and was not sent; use rediss:// or \"tls\": true, "
                "or accept the risk with \"accept_risk\": [\"clear_text_password\"]");
  }
  Arguments command{"AUTH"};
  if (!options.user.empty()) command.add(options.user);
  command.add(options.password);
  auto reply = ask(connection, command, "Redis does not let us in", patience);
  return reply ? Status() : fail(reply.error());
}

// "name:value" of an INFO.
std::string field(std::string_view info, std::string_view name) {
  const std::string start = "\n" + std::string(name) + ":";
  const std::size_t at = info.find(start);
  if (at == info.npos) return {};
  info.remove_prefix(at + start.size());
  return std::string(info.substr(0, info.find('\r')));
}

Status check_role(Connection& connection, const Patience& patience) {
  auto role = ask(connection, {"ROLE"}, "can't ask Redis whether it is a primary", patience);
  if (!role) return fail(role.error());
  const bool told = (*role)->type == REDIS_REPLY_ARRAY && (*role)->elements > 0;
  if (told && text_of(*(*role)->element[0]) == "master") return {};
  return fail(errc::unsafe_setup, "the server is a replica: its locks exclude nobody on the primary; connect to that");
}

Status check_info(std::string_view info, const Greeting& greeting) {
  if (field(info, "cluster_enabled") == "1") {
    return fail(errc::unsafe_setup, "the server is part of a Redis Cluster, which is not supported; use a single one");
  }
  const std::string policy = field(info, "maxmemory_policy");
  if (field(info, "maxmemory") == "0" || policy == "noeviction" || greeting.accept_eviction) return {};
  return fail(errc::unsafe_setup,
              "the server deletes keys, locks among them, when its memory is full (maxmemory-policy " + policy +
                  "); set noeviction, or accept the risk with \"accept_risk\": [\"eviction\"]");
}

bool is_too_old(const std::string& version) {
  int major = 0;
  int minor = 0;
  const char* const end = version.data() + version.size();
  const auto first = std::from_chars(version.data(), end, major);
  if (first.ptr != end) std::from_chars(first.ptr + 1, end, minor);
  return major < 6 || (major == 6 && minor < 2);
}

std::optional<std::int64_t> number(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

// [seconds, microseconds], both as text.
std::optional<std::int64_t> microseconds_of(const redisReply& time) {
  constexpr std::int64_t kMostSeconds = std::int64_t{1} << 33;  // Of a token's 53 bits.
  if (time.type != REDIS_REPLY_ARRAY || time.elements != 2) return std::nullopt;
  const auto seconds = number(text_of(*time.element[0]));
  const auto more = number(text_of(*time.element[1]));
  if (!seconds || !more || *seconds < 0 || *seconds >= kMostSeconds || *more < 0 || *more >= 1'000'000) {
    return std::nullopt;
  }
  return *seconds * 1'000'000 + *more;
}

Status introduce(Session& session, const Greeting& greeting, const Patience& patience) {
  Connection& connection = *session.connection;
  if (auto role = check_role(connection, patience); !role) return role;
  auto info = ask(connection, {"INFO"}, "can't ask Redis what it is", patience);
  if (!info) return fail(info.error());
  const std::string_view told = text_of(**info);
  session.run_id = field(told, "run_id");
  session.version = field(told, "redis_version");
  if (session.run_id.empty() || is_too_old(session.version)) {
    return fail(errc::unsupported, "lockr needs Redis 6.2 or later; this server says that it is version \"" +
                                       one_line(session.version) + "\"");
  }
  auto time = ask(connection, {"TIME"}, "can't ask Redis for the time", patience);
  if (!time) return fail(time.error());
  const auto microseconds = microseconds_of(**time);
  if (!microseconds) return fail(errc::backend_failure, "Redis does not tell the time");
  session.microseconds = *microseconds;
  return check_info(told, greeting);
}

}  // namespace

Result<Session> make_session(const Options& options, const Greeting& greeting, Network& network,
                             const Patience& patience) {
  auto stream = network.connect(options, patience);
  if (!stream) return fail(stream.error());
  return greet(*std::move(stream), options, greeting, patience);
}

Result<Session> greet(std::unique_ptr<Stream> stream, const Options& options, const Greeting& greeting,
                      const Patience& patience) {
  stream->set_patience(greeting.reply_timeout);
  Session session{.connection = std::make_shared<Connection>(std::move(stream)), .run_id = {}, .version = {}};
  Connection& connection = *session.connection;
  if (auto in = log_in(connection, options, greeting, patience); !in) return fail(in.error());
  if (auto known = introduce(session, greeting, patience); !known) return fail(known.error());
  if (options.database != 0) {
    auto selected =
        ask(connection, {"SELECT", std::to_string(options.database)}, "can't choose the database", patience);
    if (!selected) return fail(selected.error());
  }
  // For CLIENT LIST; where the ACL forbids it, there is no name.
  auto named = connection.ask({"CLIENT", "SETNAME", greeting.client_name}, patience);
  if (!named) return fail(named.error());
  return session;
}

}  // namespace lockr::redis
