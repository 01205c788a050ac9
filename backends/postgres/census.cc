#include "backends/postgres/census.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <limits>
#include <unordered_map>
#include <utility>

#include "lockr/key.h"

namespace lockr::postgres {
namespace {

// A process that has not answered by then is shown as pg_locks shows it.
constexpr Time kSilent = std::chrono::seconds(1);
// The server takes notifications of less than 8,000 bytes.
constexpr std::size_t kMostBytes = 7'900;

// Payloads are words separated by blanks; bytes of keys and labels that are not plain are written as %XX.
std::string escaped(std::string_view text) {
  constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/#";
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string out = "=";  // So that no word is empty.
  for (const char c : text) {
    if (kPlain.find(c) != kPlain.npos) {
      out += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      out.append({'%', kDigits[byte >> 4], kDigits[byte & 15]});
    }
  }
  return out;
}

std::optional<std::string> unescaped(std::string_view word) {
  if (!word.starts_with('=')) return std::nullopt;
  std::string out;
  for (std::size_t at = 1; at < word.size(); ++at) {
    if (word[at] != '%') {
      out += word[at];
      continue;
    }
    unsigned byte = 0;
    const char* const digits = word.data() + at + 1;
    if (word.size() - at < 3 || std::from_chars(digits, digits + 2, byte, 16).ptr != digits + 2) return std::nullopt;
    out += static_cast<char>(byte);
    at += 2;
  }
  return out;
}

std::vector<std::string> words_of(std::string_view payload) {
  std::vector<std::string> words;
  while (!payload.empty()) {
    const std::size_t end = std::min(payload.find(' '), payload.size());
    words.emplace_back(payload.substr(0, end));
    payload.remove_prefix(std::min(end + 1, payload.size()));
  }
  return words;
}

std::optional<std::int64_t> number(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

using Wall = std::chrono::system_clock;

// As microseconds of the epoch; 0: not known.
std::string written(const std::optional<Wall::time_point>& time) {
  using std::chrono::microseconds;
  return std::to_string(time ? std::chrono::duration_cast<microseconds>(time->time_since_epoch()).count() : 0);
}

std::optional<Wall::time_point> time_of(std::int64_t microseconds) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max() / 1000;
  if (microseconds <= 0 || microseconds > kMost) return std::nullopt;
  return Wall::time_point(std::chrono::microseconds(microseconds));
}

std::string random_name(spi::Runtime& runtime) { return std::to_string(runtime.random()); }

std::int64_t identity_of(const Key& key) { return static_cast<std::int64_t>(key.hash()); }

// All sessions of lockr in this database, and all advisory locks of the one-bigint kind there.
constexpr const char* kLocks =
    "SELECT a.pid, a.application_name OPERATOR(pg_catalog.~~) 'lockr/%', l.granted, "
    "l.mode OPERATOR(pg_catalog.=) 'ShareLock', "
    "(l.classid::pg_catalog.int8 OPERATOR(pg_catalog.<<) 32) OPERATOR(pg_catalog.|) l.objid::pg_catalog.int8, "
    "a.application_name, "
    "(pg_catalog.date_part('epoch', l.waitstart) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8 "
    "FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_locks l ON l.pid OPERATOR(pg_catalog.=) a.pid "
    "AND l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.objsubid OPERATOR(pg_catalog.=) 1 "
    "AND l.database OPERATOR(pg_catalog.=) a.datid "
    "WHERE a.datname OPERATOR(pg_catalog.=) pg_catalog.current_database() "
    "AND (l.pid IS NOT NULL OR a.application_name OPERATOR(pg_catalog.~~) 'lockr/%')";

// Its columns.
enum Column : std::uint8_t { kPid, kOurs, kGranted, kShared, kIdentity, kName, kWaitsSince, kColumns };

// "lockr/host:pid"
void read_application_name(const std::string& name, Holder& holder) {
  constexpr std::string_view kPrefix = "lockr/";
  const std::size_t colon = name.rfind(':');
  if (!name.starts_with(kPrefix) || colon == name.npos) {
    holder.label = name;
    return;
  }
  holder.host = name.substr(kPrefix.size(), colon - kPrefix.size());
  holder.pid = number(std::string_view(name).substr(colon + 1)).value_or(0);
}

}  // namespace

Census::Census(spi::Runtime& runtime, std::function<std::vector<Holder>()> describe)
    : runtime_(runtime), describe_(std::move(describe)), own_name_(random_name(runtime)) {}

// ---- answering

std::vector<std::string> Census::hear(std::string_view payload, const std::vector<int>& own_sessions) {
  const std::vector<std::string> words = words_of(payload);
  if (words.size() < 4 || words[2] == own_name_) {
    // Our own question: we have told everything already.
    if (words.size() >= 4 && words[0] == "ask") {
      std::lock_guard lock(mutex_);
      const auto found = inquiries_.find(words[1]);
      if (found == inquiries_.end()) return {};
      found->second->answered.insert(found->second->answered.end(), own_sessions.begin(), own_sessions.end());
      found->second->changed.notify_all();
    }
    return {};
  }
  if (words[0] == "ask") return answer_to(words[1], words[3], own_sessions);
  std::lock_guard lock(mutex_);
  const auto found = inquiries_.find(words[1]);
  if (found != inquiries_.end()) gather(*found->second, words);
  return {};
}

// ask NONCE ASKER IDENTITY|*  ->  tell NONCE TELLER HOST PID (MODE STATE KEY LABEL SINCE)*,  end NONCE TELLER SESSION*
std::vector<std::string> Census::answer_to(const std::string& nonce, const std::string& wanted,
                                           const std::vector<int>& own_sessions) const {
  const std::string start =
      "tell " + nonce + " " + own_name_ + " " + escaped(spi::host_name()) + " " + std::to_string(::getpid());
  std::vector<std::string> payloads;
  std::string payload = start;
  for (const Holder& row : describe_()) {
    const auto key = Key::parse(row.key);
    if (!key || (wanted != "*" && wanted != std::to_string(identity_of(*key)))) continue;
    const std::string words = std::string(row.mode == Mode::shared ? " s" : " x") + (row.waiting ? " w " : " h ") +
                              escaped(row.key) + " " + escaped(row.label) + " " + written(row.since);
    if (payload.size() + words.size() > kMostBytes) payloads.push_back(std::exchange(payload, start));
    payload += words;
  }
  if (payload.size() > start.size()) payloads.push_back(std::move(payload));
  std::string end = "end " + nonce + " " + own_name_;
  for (const int session : own_sessions) end += " " + std::to_string(session);
  payloads.push_back(std::move(end));
  return payloads;
}

// ---- asking

void Census::gather(Inquiry& inquiry, const std::vector<std::string>& words) {
  if (words[0] == "end") {
    for (std::size_t i = 3; i < words.size(); ++i) {
      inquiry.answered.push_back(static_cast<int>(number(words[i]).value_or(0)));
    }
    inquiry.changed.notify_all();
  }
  if (words[0] != "tell" || words.size() < 5) return;
  const auto host = unescaped(words[3]);
  const auto pid = number(words[4]);
  for (std::size_t i = 5; i + 4 < words.size() && host && pid; i += 5) {
    const auto text = unescaped(words[i + 2]);
    const auto label = unescaped(words[i + 3]);
    const auto key = text ? Key::parse(*text) : fail(Error(errc::invalid_key));
    if (!key || !label) continue;
    inquiry.rows.push_back({identity_of(*key),
                            {.key = *text,
                             .mode = words[i] == "s" ? Mode::shared : Mode::exclusive,
                             .waiting = words[i + 1] == "w",
                             .host = *host,
                             .pid = *pid,
                             .label = *label,
                             .since = time_of(number(words[i + 4]).value_or(0))}});
  }
}

bool Census::complete(const Inquiry& inquiry) {
  if (!inquiry.locks) return false;
  if (!*inquiry.locks) return true;
  const auto& told = inquiry.answered;
  return std::all_of((*inquiry.locks)->begin(), (*inquiry.locks)->end(), [&](const Link::Row& row) {
    const auto session = static_cast<int>(number(row[kPid].value_or("")).value_or(0));
    return row[kOurs] != "t" || std::find(told.begin(), told.end(), session) != told.end();
  });
}

Result<std::vector<Holder>> Census::ask(Link& link, const Key* key, Time until) {
  const std::string nonce = random_name(runtime_);
  Inquiry inquiry;
  {
    std::lock_guard lock(mutex_);
    inquiries_[nonce] = &inquiry;
  }
  const std::string wanted = key ? std::to_string(identity_of(*key)) : "*";
  const auto answered = [this, nonce](Result<Link::Rows> rows) {
    std::lock_guard lock(mutex_);
    const auto found = inquiries_.find(nonce);
    if (found == inquiries_.end()) return;
    found->second->locks = std::move(rows);
    found->second->changed.notify_all();
  };
  link.notify("ask " + nonce + " " + own_name_ + " " + wanted);
  link.ask(kLocks, kColumns, answered);
  std::unique_lock lock(mutex_);
  const Time patience = std::min(kSilent, until - runtime_.steady_now());
  inquiry.changed.wait_for(lock, patience, [&] { return complete(inquiry); });
  inquiries_.erase(nonce);
  lock.unlock();
  return combine(inquiry, key);
}

// What was told, and what pg_locks shows beyond it.
Result<std::vector<Holder>> Census::combine(const Inquiry& inquiry, const Key* key) const {
  if (!inquiry.locks) return fail(errc::connection_lost, "PostgreSQL did not answer in time who holds what");
  if (!*inquiry.locks) return fail(inquiry.locks->error());
  std::vector<Holder> holders;
  for (const Row& row : inquiry.rows) holders.push_back(row.holder);
  // A key that somebody has told of, whose number foreign clients hold or wait for.
  std::unordered_map<std::int64_t, std::string> names;
  for (const Row& row : inquiry.rows) names.emplace(row.identity, row.holder.key);
  for (const Holder& row : describe_()) {
    if (const auto own = Key::parse(row.key)) names.emplace(identity_of(*own), row.key);
  }
  const auto& told = inquiry.answered;
  for (const Link::Row& row : **inquiry.locks) {
    const auto session = static_cast<int>(number(row[kPid].value_or("")).value_or(0));
    const auto identity = row[kIdentity] ? number(*row[kIdentity]) : std::nullopt;
    if (!identity || (key && *identity != identity_of(*key))) continue;
    if (std::find(told.begin(), told.end(), session) != told.end()) continue;
    Holder holder;
    const auto name = names.find(*identity);
    holder.key = key                   ? std::string(key->string())
                 : name != names.end() ? name->second
                                       : "#" + std::to_string(*identity);
    holder.mode = row[kShared] == "t" ? Mode::shared : Mode::exclusive;
    holder.waiting = row[kGranted] != "t";
    holder.since = time_of(number(row[kWaitsSince].value_or("")).value_or(0));
    read_application_name(row[kName].value_or(""), holder);
    holders.push_back(std::move(holder));
  }
  return holders;
}

}  // namespace lockr::postgres
