// lockr why: who keeps a key, whom those wait for themselves, and so on to the end of the chain.
#include <algorithm>
#include <iostream>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/holders.h"
#include "cli/settings.h"
#include "cli/text.h"

namespace lockr::cli {
namespace {

// What tells one owner from another in what engines list.
auto owner_of(const Holder& holder) { return std::tie(holder.host, holder.pid, holder.label); }

/// Holders and waiters of every key, and who is being followed.
class Chain {
 public:
  explicit Chain(std::vector<Holder> all) : all_(std::move(all)) {}

  std::vector<const Holder*> of(const std::string& key, bool waiting) const {
    std::vector<const Holder*> found;
    for (const Holder& each : all_) {
      if (each.key == key && each.waiting == waiting) found.push_back(&each);
    }
    return found;
  }
  /// What the holder itself waits for. Not its own key: that is another session of the same label.
  std::vector<const Holder*> waits_of(const Holder& holder) const {
    std::vector<const Holder*> found;
    for (const Holder& each : all_) {
      if (each.waiting && each.key != holder.key && owner_of(each) == owner_of(holder)) found.push_back(&each);
    }
    return found;
  }
  /// Follows the holder unless it is being followed already: then the chain has come back to it.
  bool enter(const Holder& holder) {
    if (follows(holder)) return false;
    followed_.push_back(&holder);
    return true;
  }
  void leave() { followed_.pop_back(); }
  bool follows(const Holder& holder) const {
    return std::any_of(followed_.begin(), followed_.end(),
                       [&](const Holder* each) { return owner_of(*each) == owner_of(holder); });
  }
  /// False from the second time on: many ways may lead to a key, and each would be followed to its end.
  bool first_sight(const std::string& key) { return seen_.insert(key).second; }

 private:
  std::vector<Holder> all_;
  std::vector<const Holder*> followed_;
  std::set<std::string> seen_;
};

void print_holders(Chain& chain, const std::string& key, const std::string& indent) {
  const auto holders = chain.of(key, false);
  // It may have been given back while we asked, or the engine can't tell.
  if (holders.empty()) std::cout << indent << "held by nobody that the engine lists\n";
  const bool first = chain.first_sight(key);
  for (const Holder* holder : holders) {
    if (!first && !chain.follows(*holder)) {
      std::cout << indent << "held as is said above\n";
      return;
    }
    std::cout << indent << "held " << mode_of(*holder) << " by " << in_words(*holder) << '\n';
    const auto waits = chain.waits_of(*holder);
    if (waits.empty()) continue;
    if (!chain.enter(*holder)) {
      std::cout << indent << "  which is in this chain already: they may wait for each other\n";
      continue;
    }
    for (const Holder* wait : waits) {
      std::cout << indent << "  which waits for " << printable(wait->key) << '\n';
      print_holders(chain, wait->key, indent + "    ");
    }
    chain.leave();
  }
}

void print_chain(Chain& chain, const std::string& key) {
  if (chain.of(key, false).empty() && chain.of(key, true).empty()) {
    std::cout << printable(key) << ": nobody that the engine lists holds it or waits for it\n";
    return;
  }
  std::cout << printable(key) << '\n';
  print_holders(chain, key, "  ");
  for (const Holder* waiter : chain.of(key, true)) {
    std::cout << "  waited for, " << mode_of(*waiter) << ", by " << in_words(*waiter) << '\n';
  }
}

std::string json_holders(Chain& chain, const std::string& key) {
  std::string text = "[";
  const bool first = chain.first_sight(key);
  for (const Holder* holder : chain.of(key, false)) {
    text += (text.size() == 1 ? "{" : ",{") + json_fields(*holder);
    const bool again = chain.follows(*holder);
    text += std::string(",\"in_a_circle\":") + (again ? "true" : "false") + ",\"waits_for\":[";
    std::string waits;
    if (first && chain.enter(*holder)) {
      for (const Holder* wait : chain.waits_of(*holder)) {
        waits += (waits.empty() ? "{" : ",{") + json_text("key", wait->key) + ",\"mode\":\"" + mode_of(*wait) +
                 "\",\"holders\":" + json_holders(chain, wait->key) + '}';
      }
      chain.leave();
    }
    text += waits + "]}";
  }
  return text + ']';
}

void print_json(Chain& chain, const std::string& key) {
  std::string waiters;
  for (const Holder* waiter : chain.of(key, true)) {
    waiters += (waiters.empty() ? "{" : ",{") + json_fields(*waiter) + '}';
  }
  std::cout << '{' << json_text("key", key) << ",\"holders\":" << json_holders(chain, key) << ",\"waiters\":["
            << waiters << "]}\n";
}

// The key as the engine knows it.
Result<std::string> full_name(const Key& key, const LockerConfig& config) {
  if (config.key_namespace().empty()) return std::string(key.string());
  const auto full = key.prefixed(config.key_namespace());
  if (!full) return fail(full.error());
  return std::string(full->string());
}

}  // namespace

int why(const Arguments& arguments) {
  const auto parsed = parse_why(arguments);
  if (const int* status = std::get_if<int>(&parsed)) return *status;
  const WhyOptions& options = std::get<WhyOptions>(parsed);
  const auto settings = load_settings(options.engine);
  if (!settings) return failed(describe(settings.error()));
  const auto name = full_name(options.key, settings->config);
  if (!name) return failed(describe(name.error()));
  auto all = ask_engine(*settings, nullptr);
  if (!all) return kFailed;
  Chain chain(*std::move(all));
  if (options.json) {
    print_json(chain, *name);
  } else {
    print_chain(chain, *name);
  }
  return kSuccess;
}

}  // namespace lockr::cli
