#include "cli/holders.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "cli/text.h"
#include "lockr/registry.h"

namespace lockr::cli {

std::optional<std::vector<Holder>> ask_engine(const Settings& settings, const Key* key) {
  const auto locker = lockr::open(settings.config);
  if (!locker) {
    complain(settings.origin + ": " + describe(locker.error()));
    return std::nullopt;
  }
  auto holders = (*locker)->inspect(key);
  if (holders) return *std::move(holders);
  complain("can't ask the engine: " + describe(holders.error()));
  return std::nullopt;
}

const char* mode_of(const Holder& holder) { return holder.mode == Mode::exclusive ? "exclusive" : "shared"; }

const char* state_of(const Holder& holder) { return holder.waiting ? "waiting" : "held"; }

std::string in_words(const Holder& holder) {
  std::string text = holder.label.empty() ? std::string("a program") : printable(holder.label);
  if (holder.pid != 0) text += ", process " + std::to_string(holder.pid);
  if (!holder.host.empty()) text += " on " + printable(holder.host);
  if (holder.since) {
    const auto span = std::chrono::system_clock::now() - *holder.since;
    text += ", for " + for_people(std::max(span, std::chrono::system_clock::duration::zero()));
  }
  return text;
}

std::string json_text(const char* name, const std::string& bytes) {
  std::string field = '"' + std::string(name) + "\":" + json_string(bytes);
  if (!is_utf8(bytes)) field += ",\"" + std::string(name) + "_hex\":\"" + hex(bytes) + '"';
  return field;
}

std::string json_fields(const Holder& holder) {
  return json_text("key", holder.key) + ",\"mode\":\"" + mode_of(holder) + "\",\"state\":\"" + state_of(holder) +
         "\"," + json_text("host", holder.host) +
         ",\"pid\":" + (holder.pid == 0 ? "null" : std::to_string(holder.pid)) + ',' +
         json_text("label", holder.label) +
         ",\"since\":" + (holder.since ? '"' + utc_time(*holder.since) + '"' : "null");
}

}  // namespace lockr::cli
