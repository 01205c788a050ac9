#include "backends/file/file_backend.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "backends/file/errors.h"

namespace lockr::file {

using spi::Op;
using spi::Request;
using spi::Time;

namespace {

constexpr Time kBeat = std::chrono::seconds(1);
// Files that nobody used for this long get the present time; tmpreaper(8) removes after 7 days, systemd after 10.
constexpr std::int64_t kOldSeconds = 24 * 60 * 60;
// How often a locker that stays open looks whether they are old.
constexpr Time kRenewal = std::chrono::hours(1);
// How long another user may take between making the directory and opening it to the group.
constexpr Time kBeingMade = std::chrono::milliseconds(200);

spi::Traits traits() {
  spi::Traits traits;
  traits.capabilities = {.backend = "file",
                         .shared = true,
                         .fencing = true,
                         .cross_process = true,
                         .cross_host = false,
                         .fair = false,
                         .takeover = std::chrono::milliseconds(50),
                         .loss = 2 * kBeat,
                         .facts = {}};
  traits.identity_is_hash = true;
  traits.lanes = 0;
  return traits;
}

// Descriptors kept open without a lock on them: an eighth of what the process may have.
unsigned idle_descriptors() noexcept {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 16;
  return static_cast<unsigned>(std::clamp<rlim_t>(limit.rlim_cur / 8, 16, kShards));
}

std::int64_t old_before(spi::Runtime& runtime) noexcept {
  return std::chrono::duration_cast<std::chrono::seconds>(runtime.wall_now()).count() - kOldSeconds;
}

Holder holder_of(const RecordView& view, const Key* asked) {
  Holder holder{.key = view.key,
                .mode = view.mode,
                .waiting = view.waiting,
                .host = view.host,
                .pid = static_cast<std::int64_t>(view.pid),
                .label = view.label,
                .since = {}};
  if (view.key_cut) {
    const bool known = asked && asked->string().starts_with(view.key);
    holder.key = known ? std::string(asked->string()) : view.key + "...";
  }
  const auto since = std::chrono::nanoseconds(static_cast<std::int64_t>(view.since_ns));
  holder.since.emplace(std::chrono::duration_cast<std::chrono::system_clock::duration>(since));
  return holder;
}

}  // namespace

FileBackend::Engine::Engine(Directory opened, spi::Runtime& runtime, const std::string& label)
    : directory(std::move(opened)),
      bells(file, runtime),
      records(file),
      locks(directory, shards, file, bells, records, runtime, label),
      shards(directory, idle_descriptors()),
      waiting(file, bells, records, locks, runtime) {}

FileBackend::FileBackend(Options options, const spi::OpenContext& context, FileSystemType type)
    : options_(std::move(options)),
      type_(type),
      runtime_(context.runtime),
      accepts_risk_(context.accepts_risk),
      log_(context.log),
      label_(context.label),
      traits_(lockr::file::traits()) {}

FileBackend::~FileBackend() { close(Time(0)); }

Status FileBackend::open(spi::Sink& sink, Time until) noexcept {
  sink_ = &sink;
  auto path = options_.directory.empty() ? default_directory() : Result<std::string>(options_.directory);
  if (!path) return fail(path.error());
  const Time patience = std::min(until, runtime_.steady_now() + kBeingMade);
  std::atomic<std::uint32_t> never_woken = 0;
  for (;;) {
    Status opened = open_once(*path, until);
    const bool being_made = !opened && opened.error().code() == errc::access_denied && options_.group;
    if (!being_made || runtime_.steady_now() >= patience) return opened;
    runtime_.park(never_woken, 0, runtime_.steady_now() + std::chrono::milliseconds(2));
  }
}

Status FileBackend::open_once(const std::string& path, Time until) {
  const std::lock_guard lock(opening_);
  auto directory = open_directory(path, options_.group, accepts_risk_, type_);
  if (!directory) return fail(directory.error());
  auto engine = std::make_unique<Engine>(std::move(*directory), runtime_, label_);
  if (Status opened = engine->file.open(engine->directory, spi::host_name(), runtime_, until); !opened) return opened;
  renew_file_times(engine->directory, old_before(runtime_));
  engine->waiting.set_sink(*sink_);
  traits_.capabilities.facts = {{"lock directory", engine->directory.path}};
  engine_ = std::move(engine);
  return {};
}

void FileBackend::submit(std::uint16_t, std::span<Request* const> batch) noexcept {
  while (!batch.empty()) {
    Request& first = *batch.front();
    std::size_t size = 1;
    if (first.group == 0) {
      answer(first);
    } else {
      while (size < batch.size() && batch[size]->group == first.group) ++size;
      const bool all = first.group_rule == spi::Group::all;
      all ? engine_->locks.take_all(batch.first(size)) : engine_->locks.take_any(batch.first(size));
    }
    for (Request* request : batch.first(size)) sink_->done(*request);
    batch = batch.subspan(size);
  }
}

void FileBackend::answer(Request& request) noexcept {
  switch (request.op) {
    case Op::take:
      return engine_->locks.take(request);
    case Op::give_back:
      return engine_->locks.give_back(request);
    case Op::yield:
      return engine_->locks.yield(request);
  }
}

bool FileBackend::start_wait(Request& request) noexcept { return engine_->waiting.start(request); }

void FileBackend::stop_wait(Request& request) noexcept { engine_->waiting.stop(request); }

bool FileBackend::wanted_elsewhere(std::uint64_t identity) noexcept { return engine_->bells.wanted(identity); }

void FileBackend::pump(Time until) noexcept {
  const Time now = runtime_.steady_now();
  if (now >= next_beat_) {
    beat();
    next_beat_ = now + kBeat;
  }
  engine_->waiting.pump(std::min(until, next_beat_));
}

// A locker that has told the loss of all its locks, for good, lets go of the directory, so that others can make the
// files again.
void FileBackend::check_files() noexcept {
  const bool told_all = std::exchange(lost_the_state_, !engine_->file.stands_in(engine_->directory));
  const auto lost = engine_->shards.check(!lost_the_state_);
  if (told_all && lost_the_state_) flock(engine_->directory.fd.get(), LOCK_UN);
  for (const auto& [shard, life] : lost) {
    engine_->records.forget_shard(shard);
    sink_->lost({.link = static_cast<std::uint16_t>(shard), .life = life}, nullptr,
                Error(errc::lock_lost, "the lock directory " + in_quotes(engine_->directory.path) +
                                           " or a file in it was moved, removed or replaced"));
  }
}

void FileBackend::beat() noexcept {
  check_files();
  if (const Time now = runtime_.steady_now(); now >= next_renewal_) {
    renew_file_times(engine_->directory, old_before(runtime_));
    next_renewal_ = now + kRenewal;
  }
  if (engine_->bells.suspicious()) engine_->file.bury_bells();
  if (engine_->records.crowded()) {
    engine_->file.bury_processes();
    if (log_ && !std::exchange(told_crowded_, true)) {
      log_(LogLevel::warning, "file: so many locks are held in " + in_quotes(engine_->directory.path) +
                                  " that `who` does not list them all");
    }
  }
}

void FileBackend::wake() noexcept { engine_->waiting.wake(); }

Result<std::vector<Holder>> FileBackend::inspect(const Key* key, Time) noexcept {
  const auto identity = key ? std::optional(key->hash()) : std::nullopt;
  const short foreign = key ? engine_->locks.foreign(*identity) : static_cast<short>(F_UNLCK);
  std::vector<Holder> holders;
  bool explained = false;
  for (const RecordView& view : engine_->records.read(identity)) {
    const bool foreign_holder = !view.waiting && static_cast<int>(view.process) != engine_->file.process();
    if (key && foreign_holder && foreign == F_UNLCK) continue;  // It was given back meanwhile.
    explained = explained || foreign_holder;
    holders.push_back(holder_of(view, key));
  }
  if (foreign != F_UNLCK && !explained) {
    // Held without a record: by a descendant of a dead holder, or because the table was full.
    Holder unknown;
    unknown.key = std::string(key->string());
    unknown.mode = foreign == F_RDLCK ? Mode::shared : Mode::exclusive;
    unknown.host = spi::host_name();
    holders.push_back(std::move(unknown));
  }
  return holders;
}

Result<std::vector<Descriptor>> FileBackend::descriptors(spi::Seat seat, const Key& key) noexcept {
  errno = ESTALE;
  Descriptor copy(seat.link < kShards ? engine_->shards.duplicate(seat.link, seat.life) : -1);
  if (copy.get() < 0 && errno == ESTALE) return fail(Error(errc::lock_lost).with_key(key.string()));
  if (copy.get() < 0) return fail(from_errno(errno, "can't duplicate the lock's descriptor").with_key(key.string()));
  // Whoever keeps the lock also keeps others from making the files again.
  Descriptor of_directory(fcntl(engine_->directory.fd.get(), F_DUPFD_CLOEXEC, 0));
  if (of_directory.get() < 0) {
    return fail(from_errno(errno, "can't duplicate the lock directory's descriptor").with_key(key.string()));
  }
  std::vector<Descriptor> copies;
  copies.push_back(std::move(copy));
  copies.push_back(std::move(of_directory));
  return copies;
}

void FileBackend::close(Time) noexcept {
  if (!engine_) return;
  engine_->waiting.close();
  if (engine_->shards.close()) engine_->bells.ring_everyone();
  flock(engine_->directory.fd.get(), LOCK_UN);  // Nothing is held any more; the object may stay for long.
  engine_->file.close();
}

void FileBackend::before_fork() noexcept {
  opening_.lock();
  if (engine_) engine_->shards.before_fork();
}

void FileBackend::after_fork() noexcept {
  if (engine_) engine_->shards.after_fork();
  opening_.unlock();
}

void FileBackend::forked() noexcept {
  opening_.unlock();
  if (!engine_) return;
  engine_->shards.forked();
  engine_->file.forked();
  engine_->waiting.forked();
  engine_->directory.fd = Descriptor(-1);
}

}  // namespace lockr::file

namespace lockr::spi {
namespace {

Result<std::unique_ptr<Backend>> create(const OpenContext& context) {
  auto options = file::read_options(context.section);
  if (!options) return fail(options.error());
  return std::make_unique<file::FileBackend>(std::move(*options), context);
}

}  // namespace

extern const BackendInfo file_backend{
    .name = "file",
    .schemes = "file",
    .summary = "locks of the kernel on files of one directory: processes of one host; for cron, scripts, services",
    .schema = file::kSchema,
    .risks = "network_file_system shared_directory",
    .create = create,
};

}  // namespace lockr::spi
