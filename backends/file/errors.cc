#include "backends/file/errors.h"

#include <cerrno>
#include <cstdint>
#include <cstring>

namespace lockr::file {
namespace {

struct Meaning {
  int error;
  errc code;
  const char* hint;
};

constexpr Meaning kMeanings[] = {
    {EACCES, errc::access_denied, "check the owner and mode of the lock directory and of the files in it"},
    {EPERM, errc::access_denied, "check the owner and mode of the lock directory and of the files in it"},
    {EROFS, errc::access_denied, "the file system is mounted read-only; choose another directory"},
    {ENOSPC, errc::capacity, "the file system is full; free some space or inodes, or choose another directory"},
    {EDQUOT, errc::capacity, "the disk quota is used up; free some space or choose another directory"},
    {EMFILE, errc::capacity, "this process has no descriptors left; raise `ulimit -n` or hold fewer keys at once"},
    {ENFILE, errc::capacity, "the system has no descriptors left; raise the sysctl fs.file-max"},
    {ENOLCK, errc::capacity, "the kernel has no memory left for locks"},
    {ENOMEM, errc::capacity, "the kernel has no memory left"},
};

}  // namespace

Error from_errno(int error, std::string_view what) {
  errc code = errc::backend_failure;
  std::string message(what);
  char buffer[128];
  message.append(": ").append(strerror_r(error, buffer, sizeof buffer));
  for (const Meaning& meaning : kMeanings) {
    if (meaning.error != error) continue;
    code = meaning.code;
    message.append("; ").append(meaning.hint);
  }
  const char* name = strerrorname_np(error);
  return Error(code, std::move(message))
      .with_native(std::string(name ? name : "errno") + " (" + std::to_string(error) + ")");
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t kMost = 256;
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text.substr(0, kMost)) {
    const auto byte = static_cast<std::uint8_t>(c);
    if (byte >= 0x20 && byte != 0x7f) {
      out += c;
    } else {
      out.append("\\x").append({kDigits[byte >> 4], kDigits[byte & 15]});
    }
  }
  return out + (text.size() > kMost ? "\"..." : "\"");
}

}  // namespace lockr::file
