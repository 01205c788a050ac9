// Real servers for tests: programs of Debian's packages, on loopback and short sockets, ended by pid.
#pragma once

#include <sys/types.h>

#include <csignal>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace lockr::testing {

/// A directory of the test's own under /tmp, gone with the object. A daemon may write in it: it belongs to the
/// unprivileged user that daemons run as when the test is root.
class DaemonDirectory {
 public:
  DaemonDirectory();
  DaemonDirectory(const DaemonDirectory&) = delete;
  DaemonDirectory& operator=(const DaemonDirectory&) = delete;
  ~DaemonDirectory();

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  /// Writes a file that the daemon may read.
  void write(const std::string& name, const std::string& text) const;
  std::string read(const std::string& name) const;
  /// Copies a folder to here, with all in it, for the daemon to write in.
  void copy_in(const std::filesystem::path& folder, const std::string& name) const;

 private:
  void give_to_daemon(const std::filesystem::path& path) const;

  std::string path_;
};

/// Namespaces that a program is to run in, by descriptors; -1: ours.
struct Place {
  int network = -1;
  int mounts = -1;
};

/// A program that runs until it is ended. Servers that refuse to run as root run as `nobody` when the test is root.
/// Throws std::runtime_error with the reason when something can't be had: a missing server fails the test.
class Daemon {
 public:
  /// Output goes to the file `log`, appended.
  Daemon(std::vector<std::string> command, std::string log, Place place = {});
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;
  ~Daemon();

  pid_t pid() const { return pid_; }
  /// Waits for it to be ready; throws when it ended before or is not ready in 30 s.
  void wait_until(const std::function<bool()>& ready);
  /// Signals it and waits for its end; after 30 s it is killed, which throws.
  void stop(int signal);

 private:
  bool ended();

  std::string name_;
  std::string log_;
  pid_t pid_ = 0;
};

/// Runs a program as a daemon would run, to its end; throws with its output when it fails.
void run_as_daemon(const std::vector<std::string>& command, const std::string& log);

}  // namespace lockr::testing
