#include "backends/file/records.h"

#include <algorithm>

#include "backends/file/text_words.h"

namespace lockr::file {
namespace {

// A claim: process + 1 in the upper 16 bits, then 15 of its generation, one for waiting, 32 of the identity.
constexpr unsigned kProcessShift = 48;
constexpr unsigned kGenerationShift = 33;
constexpr std::uint64_t kGenerationMask = 0x7fff;
constexpr std::uint64_t kWaitingBit = std::uint64_t{1} << 32;

// Sizes: mode in bit 0, bytes of the key from bit 8, of what is stored of it from 24, of the label from 40.
constexpr unsigned kKeyShift = 8;
constexpr unsigned kStoredShift = 24;
constexpr unsigned kLabelShift = 40;

constexpr std::size_t kTextBytes = kTextWords * 8;
constexpr std::size_t kLeastForLabel = 48;

unsigned process_of(std::uint64_t claim) noexcept { return static_cast<unsigned>(claim >> kProcessShift) - 1; }

unsigned place_in_window(unsigned home, unsigned at) noexcept { return (home + at) % kRecords; }

}  // namespace

std::uint64_t Records::claim_of(std::uint64_t identity, bool waiting) const noexcept {
  return (static_cast<std::uint64_t>(file_.process()) + 1) << kProcessShift |
         (file_.generation() >> 1 & kGenerationMask) << kGenerationShift | (waiting ? kWaitingBit : 0) | identity >> 32;
}

// Of a locker that was closed, or whose death somebody noticed. Those whose death no one has noticed yet count as live.
bool Records::stale(std::uint64_t claim) const noexcept {
  if (process_of(claim) >= kProcesses) return true;
  const std::uint64_t now = file_.state().processes[process_of(claim)].generation.load(std::memory_order_acquire);
  return now % 2 == 0 || (now >> 1 & kGenerationMask) != (claim >> kGenerationShift & kGenerationMask);
}

std::optional<unsigned> Records::claim(unsigned home, std::uint64_t claim) noexcept {
  Bucket* buckets = file_.state().buckets;
  for (const bool replace_stale : {false, true}) {
    for (unsigned at = 0; at < kRecordWindow; ++at) {
      const unsigned place = place_in_window(home, at);
      std::uint64_t found = buckets[place].claim.load(std::memory_order_relaxed);
      if (found != 0 && !(replace_stale && stale(found))) continue;
      if (buckets[place].claim.compare_exchange_strong(found, claim, std::memory_order_acq_rel)) return place;
    }
  }
  return std::nullopt;
}

bool Records::add(const Entry& entry) noexcept {
  const std::uint64_t mine = claim_of(entry.identity, entry.waiting);
  const auto place = file_.process() >= 0 ? claim(bucket_of(entry.identity), mine) : std::nullopt;
  if (!place) {
    crowded_.store(true, std::memory_order_relaxed);
    return false;
  }
  const std::size_t label_bytes = std::min(
      entry.label.size(), std::max(kLeastForLabel, kTextBytes - 8 * words_for(std::min(entry.key.size(), kTextBytes))));
  const std::size_t key_bytes = std::min(entry.key.size(), kTextBytes - 8 * words_for(label_bytes));

  Record& record = file_.state().records[*place];
  const std::uint64_t version = record.version.load(std::memory_order_relaxed) | 1;
  record.version.store(version, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  record.claim.store(mine, std::memory_order_relaxed);
  record.identity.store(entry.identity, std::memory_order_relaxed);
  record.since.store(entry.since_ns, std::memory_order_relaxed);
  record.sizes.store((entry.mode == Mode::exclusive ? 1 : 0) | std::uint64_t{entry.key.size() & 0xffff} << kKeyShift |
                         std::uint64_t{key_bytes} << kStoredShift | std::uint64_t{label_bytes} << kLabelShift,
                     std::memory_order_relaxed);
  const std::span<Word> text(record.text);
  store_text(text, entry.key.substr(0, key_bytes));
  store_text(text.subspan(words_for(key_bytes)), entry.label.substr(0, label_bytes));
  record.version.store(version + 1, std::memory_order_release);
  return true;
}

void Records::remove(std::uint64_t identity, bool waiting) noexcept {
  if (file_.process() < 0) return;
  // Two identities of ours may have equal claims, as 32 of their bits are not in it: then one of their records may go
  // for the other, which is not worth a look at the records.
  const std::uint64_t mine = claim_of(identity, waiting);
  for (unsigned at = 0; at < kRecordWindow; ++at) {
    Word& claim = file_.state().buckets[place_in_window(bucket_of(identity), at)].claim;
    if (claim.load(std::memory_order_relaxed) != mine) continue;
    claim.store(0, std::memory_order_release);
    return;
  }
}

bool Records::seems_held(std::uint64_t identity) const noexcept {
  const std::uint64_t claim = file_.state().buckets[bucket_of(identity)].claim.load(std::memory_order_relaxed);
  return (claim & (kWaitingBit | (kWaitingBit - 1))) == identity >> 32;
}

void Records::forget_shard(unsigned shard) noexcept {
  for (unsigned place = 0; place < kRecords; ++place) {
    const auto view = read_at(place);
    const bool ours = view && static_cast<int>(view->process) == file_.process();
    if (ours && !view->waiting && shard_of(view->identity) == shard) remove(view->identity, false);
  }
}

std::optional<RecordView> Records::read_at(unsigned place) const {
  const State& state = file_.state();
  const Record& record = state.records[place];
  const std::uint64_t claim = state.buckets[place].claim.load(std::memory_order_acquire);
  if (claim == 0 || stale(claim)) return std::nullopt;
  const std::uint64_t version = record.version.load(std::memory_order_acquire);
  if (version % 2 == 1 || record.claim.load(std::memory_order_relaxed) != claim) return std::nullopt;

  RecordView view;
  view.process = process_of(claim);
  view.identity = record.identity.load(std::memory_order_relaxed);
  view.since_ns = record.since.load(std::memory_order_relaxed);
  view.waiting = (claim & kWaitingBit) != 0;
  const std::uint64_t sizes = record.sizes.load(std::memory_order_relaxed);
  view.mode = sizes & 1 ? Mode::exclusive : Mode::shared;
  const std::size_t stored = std::min<std::size_t>(sizes >> kStoredShift & 0xffff, kTextBytes);
  view.key_cut = (sizes >> kKeyShift & 0xffff) > stored;
  const std::span<const Word> text(record.text);
  view.key = load_text(text, stored);
  view.label = load_text(text.subspan(words_for(stored)), sizes >> kLabelShift & 0xffff);

  std::atomic_thread_fence(std::memory_order_acquire);
  const bool unchanged = record.version.load(std::memory_order_relaxed) == version &&
                         state.buckets[place].claim.load(std::memory_order_relaxed) == claim;
  return unchanged ? std::optional(std::move(view)) : std::nullopt;
}

std::vector<RecordView> Records::read(std::optional<std::uint64_t> identity) const {
  // Alive or not, told once for each process: it takes a system call.
  std::vector<signed char> alive(kProcesses, -1);
  std::vector<RecordView> views;
  const unsigned home = identity ? bucket_of(*identity) : 0;
  for (unsigned at = 0; at < (identity ? kRecordWindow : kRecords); ++at) {
    auto view = read_at(place_in_window(home, at));
    if (!view || (identity && view->identity != *identity)) continue;
    const Process& process = file_.state().processes[view->process];
    const std::uint64_t generation = process.generation.load(std::memory_order_acquire);
    signed char& lives = alive[view->process];
    if (lives < 0) lives = file_.alive(view->process, generation) ? 1 : 0;
    if (lives == 0) continue;
    view->pid = process.pid.load(std::memory_order_relaxed);
    view->host = load_text(process.host, sizeof process.host);
    view->host.resize(std::min(view->host.find('\0'), view->host.size()));
    views.push_back(std::move(*view));
  }
  return views;
}

std::vector<int> Records::holders(std::uint64_t identity) const {
  std::vector<int> pids;
  for (unsigned at = 0; at < kRecordWindow; ++at) {
    const auto view = read_at(place_in_window(bucket_of(identity), at));
    if (!view || view->waiting || view->identity != identity || static_cast<int>(view->process) == file_.process()) {
      continue;
    }
    const auto pid = static_cast<int>(file_.state().processes[view->process].pid.load(std::memory_order_relaxed));
    if (pid > 0) pids.push_back(pid);
  }
  return pids;
}

}  // namespace lockr::file
