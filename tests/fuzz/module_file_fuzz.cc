// Files that are named as modules: any bytes are looked at without a crash, and refused with the reason.
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "core/module_file.h"
#include "tests/fuzz/fuzz.h"

namespace lockr::fuzz {
namespace {

/// A folder of our own, so that what is in it can be trusted.
class Folder {
 public:
  Folder() { expect(::mkdtemp(path_.data()) != nullptr, "a temporary folder can be made"); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string file() const { return path_ + "/module.so"; }

 private:
  std::string path_ = (std::filesystem::temp_directory_path() / "lockr-fuzz-XXXXXX").string();
};

void check(const std::uint8_t* data, std::size_t size) {
  static const Folder folder;
  static const int file = ::open(folder.file().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  expect(::ftruncate(file, 0) == 0 && ::pwrite(file, data, size, 0) == static_cast<ssize_t>(size), "a file is written");
  const Status fits = core::check_module_file(folder.file());
  if (fits) {
    expect(size >= 64, "a module has at least the header of an ELF file");
    return;
  }
  expect_sentence(fits.error());
  expect(fits.error().code() == errc::incompatible_plugin, "what is no module is incompatible_plugin");
}

}  // namespace
}  // namespace lockr::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  lockr::fuzz::check(data, size);
  return 0;
}
