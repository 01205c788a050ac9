// What lies in the file `state`, which every process that uses the directory maps. A change here is a new kLayout.
//
// Exclusion never depends on these bytes: it is the kernel's, by locks on the shard files. They carry who to wake,
// fencing tokens, and who holds what for a person to read. Whatever a crashed or hostile writer left here must only
// cost a late wake-up or a wrong line in `who`; readers therefore trust no length and no index.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace lockr::file {

inline constexpr std::uint64_t kMagic = 0x31656c69666b6c72;  // "rlkfile1"
inline constexpr std::uint32_t kLayout = 1;

inline constexpr char kStateName[] = "state";

inline constexpr unsigned kProcesses = 512;
inline constexpr unsigned kBells = 64;
inline constexpr unsigned kBuckets = 4096;
inline constexpr unsigned kRecords = kBuckets;
inline constexpr unsigned kRecordWindow = 16;  // Places where an identity's record may lie, from its bucket's on.
inline constexpr unsigned kHostWords = 14;
inline constexpr unsigned kTextWords = 19;

using Word = std::atomic<std::uint64_t>;
using FutexWord = std::atomic<std::uint32_t>;
static_assert(Word::is_always_lock_free && sizeof(Word) == 8);
static_assert(FutexWord::is_always_lock_free && sizeof(FutexWord) == 4);

struct alignas(64) Header {
  Word magic;  // Written last: a file without it is not finished.
  std::atomic<std::uint32_t> layout, bytes;
  Word boot[2];  // The boot id that everything but the tokens belongs to.
};

/// One open locker. Alive as long as it holds the OFD lock on its byte of the state file, so that no one has to trust
/// a pid; the generation tells it from those that had the place before.
struct alignas(64) Process {
  Word generation;  // Odd: taken. Even: free.
  Word pid;
  Word host[kHostWords];
};

/// One locker that waits. Its owner holds the OFD lock on its byte of the state file.
struct alignas(64) Bell {
  FutexWord word;      // Counts rings; its owner's service thread sleeps on it.
  FutexWord sleeping;  // Whether a ring needs the system call.
  FutexWord taken;
};

/// What concerns identities of one hash, in one cache line: all that an acquisition nobody waits for touches beside its
/// record. Each mask has one bit a bell.
struct alignas(64) Bucket {
  Word token;     // The last fencing token given out.
  Word waiting;   // Who waits for an identity of this bucket.
  Word aged;      // Who of them has waited so long that newcomers stand back.
  Word rung;      // Who was told that something was freed and has not looked yet.
  Word freed;     // The identity of the last ring; 0: look whatever you wait for.
  Word reserved;  // For whom a freed identity is kept a moment; see bells.cc.
  Word claim;     // Whose record lies in records[] at the bucket's number; see records.cc.
};

/// Who holds or waits. Read while it is written: see records.cc.
struct alignas(64) Record {
  Word version;  // Odd while it is written.
  Word claim;    // The claim that this text belongs to.
  Word identity;
  Word since;  // CLOCK_REALTIME, ns.
  Word sizes;  // Mode, bytes of key and label; see records.cc.
  Word text[kTextWords];
};

struct State {
  alignas(4096) Header header;
  alignas(4096) Process processes[kProcesses];
  alignas(4096) Bell bells[kBells];
  alignas(4096) Bucket buckets[kBuckets];
  alignas(4096) Record records[kRecords];
};
static_assert(sizeof(Process) == 128 && sizeof(Bucket) == 64 && sizeof(Record) == 192);
// Debian's /run/lock has 5 MiB for all users together.
static_assert(sizeof(State) < 5 * 1024 * 1024 / 4);

/// Where an identity's lock is: one byte of one shard file.
inline constexpr unsigned kShards = 1024;
inline constexpr unsigned shard_of(std::uint64_t identity) noexcept { return identity % kShards; }
inline constexpr std::int64_t offset_of(std::uint64_t identity) noexcept {
  return static_cast<std::int64_t>(identity / kShards);
}
inline constexpr unsigned bucket_of(std::uint64_t identity) noexcept { return (identity >> 10) % kBuckets; }

}  // namespace lockr::file
