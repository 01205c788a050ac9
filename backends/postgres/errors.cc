#include "backends/postgres/errors.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>

namespace lockr::postgres {
namespace {

struct Meaning {
  std::string_view sqlstate;  // A class when it has two characters.
  errc code;
  bool retryable;
  std::string_view hint;
};

// The first that fits.
constexpr std::array kMeanings{
    Meaning{"28", errc::access_denied, false, "check user name, password and pg_hba.conf"},
    Meaning{"42501", errc::access_denied, false,
            "grant it to the role; backends/postgres/README.md lists what it needs"},
    Meaning{"3D000", errc::invalid_config, false, "check the name of the database in the dsn"},
    Meaning{"42P01", errc::backend_failure, false, "make it with `lockr postgres init`"},
    Meaning{"3F000", errc::backend_failure, false, "make it with `lockr postgres init`"},
    Meaning{"53200", errc::capacity, true,
            "the server's lock table is full; raise max_locks_per_transaction or hold fewer keys"},
    Meaning{"53300", errc::capacity, true, "raise max_connections or use fewer lanes and waiters"},
    Meaning{"53", errc::capacity, true, "the server has run out of a resource"},
    Meaning{"57P03", errc::connection_lost, true, "the server is starting up or shutting down"},
    Meaning{"57P01", errc::connection_lost, true, "an administrator or a shutdown ended the connection"},
    Meaning{"57P02", errc::connection_lost, true, "another process of the server crashed, or it was stopped at once"},
    Meaning{"57P04", errc::connection_lost, true, "the database was dropped"},
    Meaning{"57P05", errc::connection_lost, true,
            "the session was idle for longer than the server allows: this process was paused, or cut off"},
    Meaning{"40P01", errc::deadlock, true, "release what is held, and try again"},
    Meaning{"25P0", errc::backend_failure, false, ""},
    Meaning{"57014", errc::backend_failure, true, "somebody cancelled the statement"},
    Meaning{"25006", errc::unsafe_setup, false, "connect to a server that can be written to"},
    Meaning{"08", errc::connection_lost, true, ""},
};

const Meaning* meaning_of(std::string_view sqlstate) {
  const auto* found = std::find_if(kMeanings.begin(), kMeanings.end(),
                                   [&](const Meaning& each) { return sqlstate.starts_with(each.sqlstate); });
  return found == kMeanings.end() ? nullptr : found;
}

bool is_sqlstate(std::string_view text) {
  return text.size() == 5 &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z'); });
}

// "FATAL:  28P01: password authentication failed": where the SQLSTATE starts.
std::optional<std::size_t> find_sqlstate(std::string_view words) {
  for (std::size_t at = words.find(":  "); at != words.npos; at = words.find(":  ", at + 1)) {
    if (words.size() < at + 9 || words[at + 8] != ':') continue;
    if (is_sqlstate(words.substr(at + 3, 5))) return at + 3;
  }
  return std::nullopt;
}

}  // namespace

std::string one_line(std::string_view text) {
  constexpr std::size_t kMost = 500;
  std::string out;
  for (const char c : text.substr(0, kMost)) {
    const bool control = static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    if (control && !out.empty() && out.back() == ' ') continue;
    out += control ? ' ' : c;
  }
  while (!out.empty() && (out.back() == ' ' || out.back() == '.')) out.pop_back();
  return out;
}

Error from_sqlstate(std::string_view sqlstate, std::string_view what, std::string_view server_says) {
  const Meaning* const meaning = meaning_of(sqlstate);
  std::string message(what);
  if (!server_says.empty()) message.append(": ").append(one_line(server_says));
  if (meaning && !meaning->hint.empty()) message.append("; ").append(meaning->hint);
  return Error(meaning ? meaning->code : errc::backend_failure, std::move(message))
      .with_native(std::string(sqlstate))
      .with_retryable(meaning && meaning->retryable);
}

Error from_result(const PGresult* result, std::string_view what) {
  const char* const sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
  const char* const primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
  if (sqlstate) return from_sqlstate(sqlstate, what, primary ? primary : "");
  return Error(errc::connection_lost, std::string(what) + ": " + one_line(PQresultErrorMessage(result)));
}

Error from_failed_connect(std::string_view libpq_says) {
  constexpr std::string_view kWhat = "can't connect to PostgreSQL";
  const auto at = find_sqlstate(libpq_says);
  if (at) {
    const std::string_view sqlstate = libpq_says.substr(*at, 5);
    const std::string_view sentence = libpq_says.substr(*at + 7);
    return from_sqlstate(sqlstate, kWhat, sentence.substr(0, sentence.find('\n')));
  }
  if (libpq_says.find("hot standby") != libpq_says.npos) {
    return Error(errc::unsafe_setup, std::string(kWhat) +
                                         ": every host of the dsn is a hot standby, whose locks exclude nobody on the "
                                         "primary; name the primary");
  }
  return Error(errc::connection_lost, std::string(kWhat) + ": " + one_line(libpq_says));
}

Error connection_ended(std::string_view sqlstate, std::string_view server_says) {
  constexpr std::string_view kWhat = "the connection to PostgreSQL ended";
  if (sqlstate.empty()) {
    std::string message(kWhat);
    if (!server_says.empty()) message.append(": ").append(one_line(server_says));
    return Error(errc::connection_lost, std::move(message));
  }
  const Error error = from_sqlstate(sqlstate, kWhat, server_says);
  return Error(errc::connection_lost, error.message()).with_native(std::string(sqlstate));
}

Error no_answer() { return connection_ended("", "what the other side sends is no answer to what was asked"); }

}  // namespace lockr::postgres
