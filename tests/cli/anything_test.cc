// The program under command lines, variables and configs that are put together at random: whatever they say, it ends
// with a status that is documented, in words that can be shown on a terminal, and without a secret in them.
// LOCKR_SEED=N runs one of them again, LOCKR_SEEDS=N more or fewer.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "tests/cli/support.h"

namespace lockr::cli_test {
namespace {

constexpr const char* kSecret = "hunter2-s3cr3t";

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : engine_(seed) {}
  std::size_t below(std::size_t bound) { return engine_() % bound; }
  bool percent(unsigned chance) { return below(100) < chance; }
  template <std::size_t N>
  std::string one_of(const std::array<const char*, N>& values) {
    return values[below(N)];
  }
  std::string bytes() {
    std::string text;
    for (std::size_t i = below(12); i > 0; --i) text += static_cast<char>(1 + below(255));
    return text;
  }

 private:
  std::mt19937_64 engine_;
};

constexpr std::array kWords{"run",       "who",   "why",       "doctor",     "backends", "config",    "check",
                            "schema",    "init",  "-s",        "-x",         "-n",       "-w",        "0.01",
                            "-w0",       "-E",    "7",         "-E9",        "--config", "CONFIG",    "--json",
                            "--label",   "job",   "--grace",   "1s",         "-h",       "--help",    "-V",
                            "--",        "true",  "--verbose", "--at-least", "1ms",      "--at-most", "-c",
                            "exit 3",    "a:b",   "a::b",      "postgres",   "--print",  "--role",    "",
                            "--backend", "file:", "memory:",   "1e999",      "-w-1",     "--nonsense"};
constexpr std::array kCommands{"true", "false", "/nonexistent", "/dev/null"};
constexpr std::array kUrls{"file:",
                           "memory:",
                           "FILE:?group=",
                           "redis://u:SECRET@127.0.0.1:1",
                           "redis://:SECRET@127.0.0.1:1/x?lanes=0",
                           "rediss://u:SECRET@[::1]:1?ttl=1s&margin=9s",
                           "redis+unix://u:SECRET@/nonexistent",
                           "postgresql://u:SECRET@127.0.0.1:1/d",
                           "postgresql://u:SECRET@127.0.0.1:x/d?lanes=2",
                           "postgresql://u:SECRET@127.0.0.1:1/d?sslmode=nonsense",
                           "postgresql://127.0.0.1:1/d?password=SECRET&options=%2",
                           "redis://127.0.0.1:1?password=SECRET&password=SECRET",
                           "nonsense://SECRET:SECRET@x"};
constexpr std::array kConfigs{
    R"({"backend": "file"})",
    R"({"backend": "redis", "redis": {"host": "127.0.0.1", "port": 1, "password": "SECRET"}})",
    R"({"backend": "redis", "redis": {"password": "SECRET", "user": 7}})",
    R"({"backend": "redis", "redis": {"password": "SECRET", "pasword": "SECRET"}})",
    R"({"backend": "postgres", "postgres": {"dsn": "host=127.0.0.1 port=1 password=SECRET"}})",
    R"({"backend": "postgres", "postgres": {"dsn": "host=127.0.0.1 password=SEC SECRET"}})",
    R"({"backend": "redis", "redis": {"password": "${HIDDEN}", "ttl": "${HIDDEN}"}})",
    R"({"backend": "file", "label": "${HIDDEN)",
    R"({"backend": "redis", "redis": {"password": "SECRET")",
    R"({"backend": "file", "acquire_timeout": "${HIDDEN}"})",
    R"([1, "SECRET"])"};

std::string with_secret(std::string text) {
  for (std::size_t at = text.find("SECRET"); at != text.npos; at = text.find("SECRET", at + 1)) {
    text.replace(at, 6, kSecret);
  }
  return text;
}

class Anything : public LockrTest {
 protected:
  /// Changes, adds or removes a byte, but of the secret.
  static std::string spoiled(Dice& dice, std::string text) {
    const std::size_t secret = text.find(kSecret);
    const std::size_t at = dice.below(text.size() + 1);
    if (secret != text.npos && at > secret && at < secret + std::string_view(kSecret).size()) return text;
    if (dice.percent(50)) return text.insert(at, 1, static_cast<char>(1 + dice.below(255)));
    return at < text.size() && at != secret ? text.erase(at, 1) : text;
  }
  std::string url(Dice& dice) {
    const std::string text = with_secret(dice.one_of(kUrls));
    return dice.percent(30) ? spoiled(dice, text) : text;
  }
  std::string config(Dice& dice) {
    const std::string text = with_secret(dice.one_of(kConfigs));
    write("config.json", dice.percent(30) ? spoiled(dice, text) : text);
    return path("config.json");
  }

  Launch launch(Dice& dice) {
    Arguments arguments;
    if (dice.percent(60)) {
      arguments = {"run"};
      for (std::size_t i = dice.below(4); i > 0; --i) arguments.push_back(dice.one_of(kWords));
      for (const char* word : {"a:b", "--"}) {
        if (dice.percent(90)) arguments.push_back(word);
      }
      arguments.push_back(dice.one_of(kCommands));
    } else {
      for (std::size_t i = dice.below(6); i > 0; --i) arguments.push_back(dice.one_of(kWords));
    }
    if (dice.percent(30)) arguments.insert(arguments.begin() + place(dice, arguments), dice.bytes());
    if (dice.percent(15)) {
      const auto at = arguments.insert(arguments.begin() + place(dice, arguments), url(dice));
      arguments.insert(at, "--backend");
    }
    for (std::string& each : arguments) {
      if (each == "CONFIG") each = config(dice);
    }
    Environment environment{{"HIDDEN", kSecret}};
    if (dice.percent(40)) environment["LOCKR_URL"] = url(dice);
    if (dice.percent(30)) environment["LOCKR_CONFIG"] = config(dice);
    if (dice.percent(10)) environment["LOCKR_DIR"] = dice.bytes();
    return lockr(std::move(arguments), std::move(environment));
  }
  static std::ptrdiff_t place(Dice& dice, const Arguments& arguments) {
    return static_cast<std::ptrdiff_t>(dice.below(arguments.size() + 1));
  }
};

bool is_documented(int status) {
  // The command's own among them: 0, 1, what -E and `exit` in kWords say, and 2 of a shell that can't read its command.
  constexpr std::array kStatuses{0, 1, 2, 3, 7, 9, 64, 124, 125, 126, 127};
  return std::find(kStatuses.begin(), kStatuses.end(), status) != kStatuses.end();
}

/// What lockr itself says; a command that it runs says what it likes.
bool is_printable(const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    const bool plain = std::all_of(line.begin(), line.end(), [](char c) {
      return c == '\t' || (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
    });
    if (!plain && line.starts_with("lockr")) return false;
  }
  return true;
}

std::string shown(const Launch& launch) {
  std::string text;
  for (const std::string& each : launch.arguments) text += " '" + each + "'";
  for (const auto& [name, value] : launch.environment) text += "\n  " + name + "=" + value.value_or("(unset)");
  return text;
}

TEST_F(Anything, ends_with_a_documented_status_and_tells_no_secret) {
  std::uint64_t first = 1;
  std::uint64_t last = 200;
  if (const char* many = std::getenv("LOCKR_SEEDS")) last = std::strtoull(many, nullptr, 10);
  if (const char* one = std::getenv("LOCKR_SEED")) first = last = std::strtoull(one, nullptr, 10);
  for (std::uint64_t seed = first; seed <= last; ++seed) {
    Dice dice(seed);
    const Launch launched = launch(dice);
    const Outcome ended = outcome(launched);
    const std::string told = ended.output + ended.errors;
    EXPECT_TRUE(ended.status && is_documented(*ended.status)) << ended.status.value_or(-1000);
    EXPECT_EQ(told.find(kSecret), std::string::npos);
    EXPECT_TRUE(is_printable(told));
    EXPECT_TRUE(!ended.status || *ended.status == 0 || *ended.status < 64 || !ended.errors.empty())
        << "no reason given";
    if (HasFailure()) {
      ADD_FAILURE() << "LOCKR_SEED=" << seed << shown(launched) << "\nsaid: " << told;
      return;
    }
  }
}

}  // namespace
}  // namespace lockr::cli_test
