#include "backends/redis/census.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>

namespace lockr::redis {
namespace {

constexpr std::size_t kKeysAtOnce = 100;

// A value that another thread brings.
template <class T>
class Mailbox {
 public:
  explicit Mailbox(spi::Runtime& runtime) : runtime_(runtime) {}

  void put(T value) {
    const std::lock_guard lock(mutex_);
    value_ = std::move(value);
    full_ = 1;
    runtime_.wake(&full_);
  }
  std::optional<T> wait(Time until) {
    while (full_ == 0 && runtime_.steady_now() < until) runtime_.park(full_, 0, until);
    const std::lock_guard lock(mutex_);
    return std::exchange(value_, std::nullopt);
  }

 private:
  spi::Runtime& runtime_;
  std::atomic<std::uint32_t> full_{0};
  std::mutex mutex_;
  std::optional<T> value_;
};

// Sends with `call`, and reads the reply with `read`, on the thread that receives it.
template <class T, class Call, class Read>
Result<T> ask(const Site& site, Link& link, Time until, Call call, Read read) {
  const auto mailbox = std::make_shared<Mailbox<Result<T>>>(site.runtime);
  call([mailbox, read](const Outcome& outcome) {
    mailbox->put(outcome.reply ? Result<T>(read(*outcome.reply)) : fail(*outcome.error));
  });
  link.flush();
  auto answer = mailbox->wait(until);
  if (!answer) return fail(errc::connection_lost, "Redis did not answer in time who holds what");
  return *std::move(answer);
}

// A pattern that means the text and whatever follows.
std::string pattern_of(std::string_view start) {
  std::string pattern;
  for (const char c : start) {
    if (std::string_view("*?[]\\").find(c) != std::string_view::npos) pattern += '\\';
    pattern += c;
  }
  return pattern + "*";
}

struct Page {
  std::string cursor;
  std::vector<std::string> names;
};

Page read_page(const redisReply& reply) {
  Page page{.cursor = "0", .names = {}};
  if (reply.type != REDIS_REPLY_ARRAY || reply.elements != 2) return page;
  page.cursor = text_of(*reply.element[0]);
  for (std::size_t i = 0; i < reply.element[1]->elements; ++i) {
    page.names.emplace_back(text_of(*reply.element[1]->element[i]));
  }
  return page;
}

// The keys that are locked or waited for.
Result<std::vector<Key>> find_keys(const Site& site, Link& link, Time until) {
  std::set<std::string> found;
  for (const std::string& start : {site.names.locks(), site.names.queues()}) {
    std::string cursor = "0";
    do {
      auto page = ask<Page>(
          site, link, until,
          [&](Link::Then then) {
            link.call(Arguments{"SCAN", cursor, "MATCH", pattern_of(start), "COUNT", "1000"}, std::move(then));
          },
          read_page);
      if (!page) return fail(page.error());
      for (const std::string& name : page->names) found.insert(name.substr(start.size()));
      cursor = page->cursor;
    } while (cursor != "0");
  }
  std::vector<Key> keys;
  for (const std::string& each : found) {
    if (auto key = Key::parse(each)) keys.push_back(*std::move(key));
  }
  return keys;
}

// [how many hold, [rows]] of each key.
std::vector<Holder> read_rows(const std::vector<Key>& keys, const redisReply& reply) {
  std::vector<Holder> holders;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const redisReply& told = *reply.element[i];
    for (std::size_t row = 0; row < told.element[1]->elements; ++row) {
      auto holder = holder_of(text_of(*told.element[1]->element[row]));
      if (!holder) continue;
      holder->key = keys[i].string();
      holder->waiting = static_cast<long long>(row) >= told.element[0]->integer;
      holders.push_back(*std::move(holder));
    }
  }
  return holders;
}

Result<std::vector<Holder>> inspect(const Site& site, Link& link, const std::vector<Key>& keys, Time until) {
  return ask<std::vector<Holder>>(
      site, link, until,
      [&](Link::Then then) {
        Arguments arguments;
        for (const Key& each : keys) add_names(arguments, site.names, each);
        arguments.add(site.names.prefix());
        link.call(Script::inspect, 2 * keys.size(), std::move(arguments), std::move(then));
      },
      [keys](const redisReply& reply) { return read_rows(keys, reply); });
}

}  // namespace

Result<std::vector<Holder>> take_census(const Site& site, Link& link, const Key* key, Time until) {
  if (key) return inspect(site, link, {*key}, until);
  auto keys = find_keys(site, link, until);
  if (!keys) return fail(keys.error());
  std::vector<Holder> all;
  for (std::size_t at = 0; at < keys->size(); at += kKeysAtOnce) {
    const std::size_t end = std::min(at + kKeysAtOnce, keys->size());
    const std::vector<Key> part(keys->begin() + static_cast<std::ptrdiff_t>(at),
                                keys->begin() + static_cast<std::ptrdiff_t>(end));
    auto rows = inspect(site, link, part, until);
    if (!rows) return fail(rows.error());
    for (Holder& each : *rows) all.push_back(std::move(each));
  }
  return all;
}

}  // namespace lockr::redis
