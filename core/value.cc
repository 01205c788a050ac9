#include "core/value.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/text.h"

namespace lockr::core {
namespace {

constexpr std::size_t kMostLevels = 16;
constexpr std::size_t kMostFields = 256;

tl::unexpected<Error> invalid(std::string message) { return fail(errc::invalid_config, std::move(message)); }

bool is_variable_name(std::string_view name) noexcept {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  const auto ok = [&](char c) { return letter(c) || (c >= '0' && c <= '9'); };
  return !name.empty() && letter(name.front()) && std::all_of(name.begin(), name.end(), ok);
}

Result<std::string> resolve_one(std::string_view reference) {
  constexpr std::string_view kFile = "file:";
  if (reference.starts_with(kFile)) {
    const std::string path(reference.substr(kFile.size()));
    if (!path.starts_with('/')) return invalid("expected an absolute path in ${file:/path}");
    auto file = read_small_file(path);
    if (!file) return fail(std::move(file.error()));
    if (file->content.ends_with('\n')) file->content.pop_back();
    return std::move(file->content);
  }
  if (!is_variable_name(reference)) {
    return invalid("expected ${NAME} or ${file:/path}; a literal \"${\" is written \"$${\"");
  }
  const std::string name(reference);
  if (const char* value = secure_getenv(name.c_str())) return value;
  return invalid("the environment variable " + name + " is not set; set it or write the value itself");
}

/// Builds the tree from the parser's events. Returning false ends the parse; error() then says why.
class TreeBuilder final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit TreeBuilder(std::string_view source) : source_(source) {}

  bool null() override { return put({}); }
  bool boolean(bool value) override { return put({.kind = Value::Kind::boolean, .boolean = value}); }
  bool number_integer(number_integer_t value) override { return put({.kind = Value::Kind::integer, .integer = value}); }
  bool number_unsigned(number_unsigned_t value) override {
    constexpr number_unsigned_t kMost = std::numeric_limits<std::int64_t>::max();
    return value > kMost ? put({.kind = Value::Kind::real}) : number_integer(static_cast<number_integer_t>(value));
  }
  bool number_float(number_float_t, const string_t&) override { return put({.kind = Value::Kind::real}); }
  bool binary(binary_t&) override { return false; }

  bool string(string_t& text) override {
    Value& value = add({.kind = Value::Kind::string, .text = std::move(text)});
    const Status resolved = resolve_references(value.text, value.referenced);
    return resolved.has_value() || refuse(resolved.error());
  }

  bool start_object(std::size_t) override { return open(Value::Kind::object); }
  bool start_array(std::size_t) override { return open(Value::Kind::array); }
  bool end_object() override { return shut(); }
  bool end_array() override { return shut(); }

  bool key(string_t& name) override {
    Value& object = *open_.back();
    const bool duplicate = object.find(name) != nullptr;
    object.fields.push_back({std::move(name), {}});
    if (duplicate) return refuse("duplicate field; give it once");
    if (object.fields.size() > kMostFields) return refuse("more than 256 fields in one object");
    return true;
  }

  // Of the parser's own words what it read last is left out: it may be a secret.
  bool parse_error(std::size_t position, const std::string& last, const nlohmann::detail::exception& error) override {
    const std::string_view read = source_.substr(0, position > 0 ? position - 1 : 0);
    const auto line = 1 + std::count(read.begin(), read.end(), '\n');
    const auto column = read.size() - (read.rfind('\n') + 1) + 1;
    error_.emplace(errc::invalid_config, "the config is not JSON at line " + std::to_string(line) + ", column " +
                                             std::to_string(column) + reason(error.what(), last) + hint(read));
    return false;
  }

  Result<Value> finish() && {
    if (error_) return fail(std::move(*error_));
    return std::move(root_);
  }

 private:
  // "[…] parse error at line 1, column 9: syntax error while parsing value - invalid literal; last read: 'x'; …"
  static std::string reason(std::string words, const std::string& last) {
    const std::size_t begin = words.find(" - ");
    const std::string repeated = "; last read: '" + last + "'";
    const std::size_t repetition = words.find(repeated, begin);
    if (begin == words.npos || (repetition == words.npos && words.find("; last read: ") != words.npos)) return {};
    if (repetition != words.npos) words.erase(repetition, repeated.size());
    return ": " + words.substr(begin + 3);
  }

  // For what people write who take it for something like JSON.
  std::string hint(std::string_view read) const {
    const std::string_view at = source_.substr(read.size());
    const std::size_t before = read.find_last_not_of(" \t\r\n");
    if (at.starts_with('/') || at.starts_with('#')) return " (JSON has no comments)";
    if (at.starts_with('\'')) return " (JSON has text in double quotes)";
    if ((at.starts_with('}') || at.starts_with(']')) && before != read.npos && read[before] == ',') {
      return " (no comma behind the last one)";
    }
    return {};
  }

  Value& add(Value value) {
    if (open_.empty()) return root_ = std::move(value);
    Value& parent = *open_.back();
    if (parent.kind == Value::Kind::array) return parent.items.emplace_back(std::move(value));
    return parent.fields.back().value = std::move(value);
  }

  bool put(Value value) {
    add(std::move(value));
    return true;
  }

  // A container's address is stable while it is open: it is the last child of its parent, which gets no other.
  bool open(Value::Kind kind) {
    Value& value = add({.kind = kind});
    if (open_.size() == kMostLevels) return refuse("the config nests deeper than 16 levels");
    open_.push_back(&value);
    return true;
  }

  bool shut() {
    open_.pop_back();
    return true;
  }

  bool refuse(std::string message) { return refuse(Error(errc::invalid_config, std::move(message))); }
  bool refuse(const Error& error) {
    error_.emplace(Error(error.code(), pointer() + ": " + error.message()).with_native(std::string(error.native())));
    return false;
  }

  std::string pointer() const {
    std::string pointer;
    for (const Value* parent : open_) {
      pointer += parent->kind == Value::Kind::array ? "/" + std::to_string(parent->items.size() - 1)
                                                    : pointer_step(parent->fields.back().name);
    }
    return pointer;
  }

  const std::string_view source_;
  Value root_;
  std::vector<Value*> open_;
  std::optional<Error> error_;
};

}  // namespace

const Value* Value::find(std::string_view name) const noexcept {
  const auto it = std::find_if(fields.begin(), fields.end(), [&](const Field& field) { return field.name == name; });
  return it == fields.end() ? nullptr : &it->value;
}

Result<Value> parse_json(std::string_view text) {
  TreeBuilder builder(text);
  nlohmann::json::sax_parse(text, &builder);
  return std::move(builder).finish();
}

Status resolve_references(std::string& text, bool& referenced) {
  std::string out;
  std::string_view rest = text;
  for (std::size_t at = 0; (at = rest.find("${")) != rest.npos;) {
    if (at > 0 && rest[at - 1] == '$') {
      out.append(rest.substr(0, at - 1)).append("${");
      rest.remove_prefix(at + 2);
      continue;
    }
    referenced = true;
    const std::size_t end = rest.find('}', at);
    if (end == rest.npos) return invalid("\"${\" without its \"}\"; a literal \"${\" is written \"$${\"");
    const auto value = resolve_one(rest.substr(at + 2, end - at - 2));
    if (!value) return fail(value.error());
    out.append(rest.substr(0, at)).append(*value);
    rest.remove_prefix(end + 1);
  }
  text = out.append(rest);
  // Paths and connection strings end at a NUL byte for the system, which would then see another value than we do.
  if (text.find('\0') != text.npos) return invalid("expected text without NUL bytes");
  return {};
}

Result<SmallFile> read_small_file(const std::string& path) {
  const auto failed = [&](const char* what) {
    const int error = errno;
    const errc code = error == EACCES || error == EPERM ? errc::access_denied : errc::invalid_config;
    return fail(Error(code, "the file " + printable(path) + " " + what).with_native(strerrorname_np(error)));
  };
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) return failed(errno == ENOENT ? "does not exist" : "can't be opened");
  struct stat found {};
  if (fstat(fd, &found) != 0) found.st_mode = 0;
  std::string content(kMostConfigBytes + 1, '\0');
  std::size_t size = 0;
  ssize_t got = 0;
  do {
    got = read(fd, content.data() + size, content.size() - size);
    if (got > 0) size += static_cast<std::size_t>(got);
  } while ((got > 0 && size < content.size()) || (got < 0 && errno == EINTR));
  const int read_errno = errno;
  close(fd);
  errno = read_errno;
  if (got < 0) return failed("can't be read");
  if (size > kMostConfigBytes) return invalid("the file " + printable(path) + " is larger than 1 MiB");
  content.resize(size);
  return SmallFile{.content = std::move(content), .owner = found.st_uid, .mode = found.st_mode};
}

std::string pointer_step(std::string_view name) {
  std::string step = "/";
  for (const char c : printable(name.substr(0, 64))) {
    if (c == '~') {
      step += "~0";
    } else if (c == '/') {
      step += "~1";
    } else {
      step += c;
    }
  }
  return step;
}

}  // namespace lockr::core
