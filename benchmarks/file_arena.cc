// Processes of one host: lockr over files, locks of the kernel by hand, Boost.Interprocess and tooz.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>

#if __has_include(<boost/interprocess/sync/named_mutex.hpp>)
#include <boost/interprocess/sync/named_mutex.hpp>
#define LOCKR_BENCH_BOOST 1
#else
#define LOCKR_BENCH_BOOST 0
#endif

#include "lockr_client.h"
#include "worker.h"

namespace lockr::bench {
namespace {

// A directory that goes with the program that made it.
class Directory {
 public:
  Directory() {
    std::string name = "/tmp/lockr-bench-XXXXXX";
    if (!mkdtemp(name.data())) give_up("no directory can be made in /tmp");
    path_ = name;
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

const Directory& directory() {
  static const Directory made;
  return made;
}

int open_file(const std::string& name) {
  const int fd = ::open((directory() / name).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) give_up("a file of a lock can't be opened");
  return fd;
}

// ---- ranges of one file, on a descriptor of its own

class OfdClient : public Client {
 public:
  OfdClient(std::size_t member, std::size_t)
      : base_(static_cast<off_t>(member) * 1'000'000), fd_(open_file("ranges")) {}
  ~OfdClient() override { close(fd_); }

  void cycle(std::size_t key, bool shared) override {
    set(shared ? F_RDLCK : F_WRLCK, at(key));
    set(F_UNLCK, at(key));
  }
  void batch(std::size_t count) override {
    for (std::size_t i = 1; i <= count; ++i) set(F_WRLCK, at(i));
    for (std::size_t i = 1; i <= count; ++i) set(F_UNLCK, at(i));
  }
  void hold(std::size_t count) override {
    set(F_WRLCK, 0);
    for (std::size_t i = 1; i < count; ++i) set(F_WRLCK, kHeldFrom + 2 * static_cast<off_t>(i));
  }

 private:
  static constexpr off_t kHeldFrom = 1'000'000'000;

  // Neighbours would become one range.
  off_t at(std::size_t key) const { return key == 0 ? 0 : base_ + 2 * static_cast<off_t>(key); }

  void set(short type, off_t at) {
    struct flock lock {};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = at;
    lock.l_len = 1;
    if (fcntl(fd_, F_OFD_SETLKW, &lock) != 0) give_up("fcntl(F_OFD_SETLKW) failed");
  }

  off_t base_;
  int fd_;
};

// ---- a file for each key

enum class Files { kept_open, opened_each_time };

class FlockClient : public Client {
 public:
  FlockClient(std::size_t member, std::size_t keys, Files files) : files_(files) {
    names_.emplace_back("flock-hot");
    for (std::size_t i = 0; i < keys; ++i) {
      names_.push_back("flock-" + std::to_string(member) + "-" + std::to_string(i));
    }
    for (const std::string& name : names_) {
      if (files_ == Files::kept_open) open_.push_back(open_file(name));
    }
  }
  ~FlockClient() override {
    for (const int each : open_) close(each);
    for (const int each : held_) close(each);
  }

  void cycle(std::size_t key, bool shared) override {
    const int fd = get(key);
    set(fd, shared ? LOCK_SH : LOCK_EX);
    give_back(fd);
  }
  void batch(std::size_t count) override {
    std::vector<int> all;
    for (std::size_t i = 1; i <= count; ++i) set(all.emplace_back(get(i)), LOCK_EX);
    for (const int each : all) give_back(each);
  }
  void hold(std::size_t count) override {
    for (std::size_t i = 0; i < count; ++i) {
      set(held_.emplace_back(open_file(i == 0 ? names_[0] : "flock-held-" + std::to_string(i))), LOCK_EX);
    }
  }

 private:
  int get(std::size_t key) const { return files_ == Files::kept_open ? open_[key] : open_file(names_[key]); }
  static void set(int fd, int operation) {
    if (flock(fd, operation) != 0) give_up("flock failed");
  }
  void give_back(int fd) {
    if (files_ == Files::kept_open) {
      set(fd, LOCK_UN);
    } else {
      close(fd);
    }
  }

  Files files_;
  std::vector<std::string> names_;
  std::vector<int> open_;
  std::vector<int> held_;
};

// ---- mutexes in shared memory, under names; they stay locked when their holder dies

#if LOCKR_BENCH_BOOST
namespace interprocess = boost::interprocess;

class BoostClient : public Client {
 public:
  BoostClient(std::size_t member, std::size_t keys) {
    add("hot");
    for (std::size_t i = 0; i < keys; ++i) add(std::to_string(member) + "-" + std::to_string(i));
  }
  ~BoostClient() override {
    for (const std::string& name : names_) interprocess::named_mutex::remove(name.c_str());
  }

  void cycle(std::size_t key, bool) override {
    mutexes_[key]->lock();
    mutexes_[key]->unlock();
  }
  void batch(std::size_t count) override {
    for (std::size_t i = 1; i <= count; ++i) mutexes_[i]->lock();
    for (std::size_t i = 1; i <= count; ++i) mutexes_[i]->unlock();
  }
  void hold(std::size_t) override {}

 private:
  void add(const std::string& name) {
    names_.push_back("lockr-bench-" + std::to_string(getpgrp()) + "-" + name);
    mutexes_.push_back(
        std::make_unique<interprocess::named_mutex>(interprocess::open_or_create, names_.back().c_str()));
  }

  std::vector<std::string> names_;
  std::vector<std::unique_ptr<interprocess::named_mutex>> mutexes_;
};

MakeClient boost_clients() {
  return [](std::size_t member, std::size_t keys) { return std::make_unique<BoostClient>(member, keys); };
}
#else
MakeClient boost_clients() { return {}; }
#endif

MakeClient flock_clients(Files files) {
  return [files](std::size_t member, std::size_t keys) { return std::make_unique<FlockClient>(member, keys, files); };
}

// Everybody here has descriptors enough.
void raise_limit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

Arena make_arena() {
  raise_limit();
  const std::string locks = directory() / "lockr";
  const auto open = [locks] { return open_roomy(R"({"backend": "file", "file": {"directory": ")" + locks + R"("}})"); };
  Contender tooz = python_contender("tooz", "python3-tooz, file", "tooz", "file://" + (directory() / "tooz"));
  tooz.missing = !python_has({"tooz"});
  return {
      .backend = "file",
      .contenders =
          {
              {.id = "lockr",
               .name = "lockr",
               .client = lockr_clients(open),
               .most_held = 100'000,
               .most_waiters = 500},
              {.id = "ofd",
               .name = "fcntl(F_OFD_SETLKW) on an open file",
               .client = [](std::size_t member, std::size_t keys) { return std::make_unique<OfdClient>(member, keys); },
               .most_held = 10'000,
               .most_waiters = 500},
              {.id = "flock",
               .name = "flock(2), a file a key, kept open",
               .client = flock_clients(Files::kept_open),
               .most_waiters = 100},
              {.id = "flock_open",
               .name = "flock(2), opened each time",
               .client = flock_clients(Files::opened_each_time)},
              {.id = "boost",
               .name = "Boost.Interprocess named_mutex",
               .client = boost_clients(),
               .most_held = 0,
               .missing = LOCKR_BENCH_BOOST == 0},
              std::move(tooz),
          },
      .processes = true,
      .keys = 256,
      .timed_every = 4,
  };
}

}  // namespace

Arena& arena() {
  static Arena made = make_arena();
  return made;
}

}  // namespace lockr::bench
