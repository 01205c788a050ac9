// Who holds and who waits, of every process: no role may see what another's sessions ask for, so holders answer.
//
// Each backend listens on one channel of the server. Who wants to know notifies it, each process answers with its rows,
// and what pg_locks shows beyond them belongs to a foreign client, or to a process of ours that is silent.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backends/postgres/link.h"
#include "lockr/locker.h"
#include "lockr/spi/backend.h"

namespace lockr::postgres {

inline constexpr const char* kChannel = "lockr_who";

/// Thread-safe.
class Census {
 public:
  /// `describe`: this process's own rows, which the core tells by itself.
  Census(spi::Runtime& runtime, std::function<std::vector<Holder>()> describe);

  /// Asks through the link, which listens, and gathers what comes until everyone has answered, or until then (steady).
  /// Errors: those of the link.
  Result<std::vector<Holder>> ask(Link& link, const Key* key, Time until);

  /// For Site::notified: a question or an answer. Returns what to notify back.
  std::vector<std::string> hear(std::string_view payload, const std::vector<int>& own_sessions);

 private:
  struct Row {
    std::int64_t identity;
    Holder holder;
  };
  struct Inquiry {
    std::vector<Row> rows;
    std::vector<int> answered;  // Server sessions of processes that have told everything.
    std::optional<Result<Link::Rows>> locks;
    std::condition_variable changed;
  };
  std::vector<std::string> answer_to(const std::string& nonce, const std::string& wanted,
                                     const std::vector<int>& own_sessions) const;
  void gather(Inquiry& inquiry, const std::vector<std::string>& words);
  Result<std::vector<Holder>> combine(const Inquiry& inquiry, const Key* key) const;
  static bool complete(const Inquiry& inquiry);

  spi::Runtime& runtime_;
  const std::function<std::vector<Holder>()> describe_;
  const std::string own_name_;  // Of this backend, among all that listen.
  std::mutex mutex_;
  std::map<std::string, Inquiry*> inquiries_;  // Guarded by mutex_, as are those.
};

}  // namespace lockr::postgres
