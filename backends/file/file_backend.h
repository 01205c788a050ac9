// The file backend: locks that hold across the processes of one host.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "backends/file/options.h"
#include "backends/file/waiting.h"
#include "lockr/spi/backend.h"

namespace lockr::file {

/// See README.md beside this file for what it promises.
class FileBackend final : public spi::Backend {
 public:
  /// `type`: for tests.
  FileBackend(Options options, const spi::OpenContext& context, FileSystemType type = file_system_type);
  ~FileBackend() override;

  Status open(spi::Sink& sink, spi::Time until) noexcept override;
  const spi::Traits& traits() const noexcept override { return traits_; }
  void submit(std::uint16_t link, std::span<spi::Request* const> batch) noexcept override;
  bool start_wait(spi::Request& request) noexcept override;
  void stop_wait(spi::Request& request) noexcept override;
  bool wanted_elsewhere(std::uint64_t identity) noexcept override;
  void pump(spi::Time until) noexcept override;
  void wake() noexcept override;
  Result<std::vector<Holder>> inspect(const Key* key, spi::Time until) noexcept override;
  Result<std::vector<Descriptor>> descriptors(spi::Seat seat, const Key& key) noexcept override;
  void close(spi::Time until) noexcept override;
  void before_fork() noexcept override;
  void after_fork() noexcept override;
  void forked() noexcept override;

 private:
  // What there is between open() and close().
  struct Engine {
    Engine(Directory opened, spi::Runtime& runtime, const std::string& label);

    Directory directory;
    StateFile file;
    Bells bells;
    Records records;
    Locks locks;
    Shards shards;
    Waiting waiting;
  };

  Status open_once(const std::string& path, spi::Time until);
  void answer(spi::Request& request) noexcept;
  void beat() noexcept;
  void check_files() noexcept;

  const Options options_;
  const FileSystemType type_;
  spi::Runtime& runtime_;
  const AcceptsRisk accepts_risk_;
  const LogHook log_;
  const std::string label_;
  spi::Traits traits_;  // Fixed after open().
  spi::Sink* sink_ = nullptr;
  std::mutex opening_;  // Held from when a descriptor of engine_ is opened until engine_ is set; and over a fork().
  std::unique_ptr<Engine> engine_;
  spi::Time next_beat_{0};  // The service thread's, as are the next three.
  spi::Time next_renewal_{0};
  bool told_crowded_ = false;
  bool lost_the_state_ = false;
};

}  // namespace lockr::file
