// The file backend, in a directory of the test's own.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "lockr/lockr.h"
#include "lockr/testing/conformance.h"
#include "tests/support/module_under_test.h"

namespace {

namespace fs = std::filesystem;
using lockr::testing::Fault;

// A tmpfs where there is one, as the default directory is on one: what a disk's file system takes to make a thousand
// files would be most of the suite's time. TMPDIR decides otherwise.
fs::path where_directories_are() {
  const bool is_chosen = std::getenv("TMPDIR") || ::access("/dev/shm", W_OK) != 0;
  return is_chosen ? fs::temp_directory_path() : fs::path("/dev/shm");
}

// A lock directory, with what it takes to spoil it.
class Directory {
 public:
  Directory() {
    if (!::mkdtemp(path_.data())) {
      throw fs::filesystem_error("mkdtemp", path_, std::error_code(errno, std::generic_category()));
    }
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }

  const std::string& path() const { return path_; }

  std::vector<fs::path> lock_files() const {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(path_)) {
      if (entry.path().filename().string().starts_with("lock-")) files.push_back(entry.path());
    }
    return files;
  }

  // The old files stay, under other names: whoever is about to open one still can.
  void replace_lock_files() {
    const fs::path fresh = fs::path(path_) / "fresh";
    for (const fs::path& file : lock_files()) {
      lockr::Descriptor(::open(fresh.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
      if (::renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, file.c_str(), RENAME_EXCHANGE) != 0) {
        throw fs::filesystem_error("renameat2", file, std::error_code(errno, std::generic_category()));
      }
      fs::rename(fresh, fs::path(path_) / ("old-" + std::to_string(replaced_++)));
    }
  }

 private:
  std::string path_ = (where_directories_are() / "lockr-conformance-XXXXXX").string();
  int replaced_ = 0;
};

// Its files are many, so cases share a directory until one of them spoils it.
std::shared_ptr<Directory> shared_directory;

class FileHarness final : public lockr::testing::Harness {
 public:
  FileHarness() {
    if (!shared_directory) shared_directory = std::make_shared<Directory>();
    directory_ = shared_directory;
  }

  lockr::Result<std::unique_ptr<lockr::Locker>> open_locker(const lockr::testing::Opening& opening) override {
    auto config = lockr::LockerConfig::from_json(config_with(opening.fields));
    if (!config) return lockr::fail(config.error());
    return lockr::testing::registry_under_test().open(*config, opening.options);
  }
  bool excludes_across_lockers() const override { return true; }
  lockr::Result<std::unique_ptr<lockr::testing::OtherProcess>> hold_elsewhere(const lockr::Key& key) override {
    return lockr::testing::hold_in_child(config_with({}), key);
  }
  std::vector<Fault> faults() override {
    return {{"the lock files are replaced", [this] {
               shared_directory.reset();
               directory_->replace_lock_files();
             }}};
  }
  // What the kernel says of the lock files, and what the state file tells a newcomer.
  std::vector<std::string> leftovers() override {
    std::vector<std::string> left;
    for (const fs::path& file : directory_->lock_files()) {
      const lockr::Descriptor fd(::open(file.c_str(), O_RDWR | O_CLOEXEC));
      struct flock lock {};
      lock.l_type = F_WRLCK;
      lock.l_whence = SEEK_SET;
      if (::fcntl(fd.get(), F_OFD_GETLK, &lock) != 0) {
        left.push_back(file.string() + ": " + std::strerror(errno));
      } else if (lock.l_type != F_UNLCK) {
        left.push_back(file.string() + ": locked at " + std::to_string(lock.l_start));
      }
    }
    const auto newcomer = open_locker({});
    if (!newcomer) return {"a newcomer can't open the directory: " + newcomer.error().to_string()};
    const auto listed = (*newcomer)->inspect();
    if (!listed) return {"a newcomer can't inspect: " + listed.error().to_string()};
    for (const lockr::Holder& row : *listed) left.push_back((row.waiting ? "waits: " : "held: ") + row.key);
    return left;
  }

 private:
  std::string config_with(const std::string& fields) const {
    return "{" + lockr::testing::backend_under_test("file") + R"("file": {"directory": ")" + directory_->path() +
           "\"}" + (fields.empty() ? "" : ", " + fields) + "}";
  }

  std::shared_ptr<Directory> directory_;
};

}  // namespace

int main(int argc, char** argv) {
  const int status = lockr::testing::run_conformance(
      argc, argv, {{"file", [] { return std::make_unique<FileHarness>(); }}}, lockr::testing::registry_under_test());
  shared_directory.reset();
  return status;
}
