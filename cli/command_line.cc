#include "cli/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <iostream>

#include "cli/text.h"
#include "lockr/locker.h"
#include "lockr/version.h"

namespace lockr::cli {
namespace {

constexpr std::string_view kProgramHelp =
    R"(lockr holds locks for programs and scripts, so that only one of them at a time does a thing.

Usage: lockr COMMAND [OPTIONS]...

Commands:
  run           hold keys while a command runs
  who           list who holds and who waits for keys
  why           say who keeps a key, and whom those wait for themselves
  doctor        check a config against its live engine, and say what it promises
  backends      list the engines this lockr was built with
  config        check a config without touching its engine, or print the JSON Schema of configs
  postgres      make a PostgreSQL database ready for fencing tokens

Options:
  -h,--help     print this text; `lockr COMMAND --help` tells more
  -V,--version  print the version

Which engine: --config FILE or --backend URL, else the config file that LOCKR_CONFIG names, else the URL in LOCKR_URL,
else files of this host in $LOCKR_DIR, /run/lock/lockr-<uid> or /tmp/lockr-<uid>, the first that can be.

Try:
  lockr run backup -- sleep 30 &        hold the key "backup" for 30 seconds
  lockr who                             see it
  lockr run -n backup -- echo mine      give up at once, with status 1, as it is taken
)";

constexpr std::string_view kRunUsage = R"(
Usage: lockr run [OPTIONS] KEY... -- COMMAND [ARGUMENT...]
       lockr run [OPTIONS] KEY... -c STRING

A KEY names the thing to protect: scopes joined with ':', such as tenant:42:invoice. Several keys are taken together or
not at all. Without -n and -w lockr waits for ever.
)";

constexpr std::string_view kRunFooter =
    R"(The command has its own process group, in the foreground of the terminal if lockr was, and gets the signals that lockr
gets. It never outlives its lock: whatever of it still runs when it ends, when the lock is lost or when lockr dies is
ended before the lock is given up. It finds the keys in LOCKR_KEY and, where the engine has them, their fencing tokens
in LOCKR_FENCING_TOKEN, one a line. LOCKR_CONFIG and LOCKR_URL are hidden from it: a lockr that it runs itself needs
--config or --backend, or it works with the default engine.

Exit status: that of the command; 128+N when signal N ended it, or lockr while it waited; 1 (or -E) not acquired;
64 wrong usage; 124 the lock was lost, or --at-most was over, and the command was ended; 125 config, engine or access;
126 the command can't be executed; 127 there is no such command.

Examples:
  lockr run nightly -- ./backup.sh                  one backup at a time, the next one waits
  lockr run -n nightly -- ./backup.sh               skip this one if one is running: exit 1
  lockr run -w 2.5 -E 75 nightly -- ./backup.sh     wait 2.5 seconds at most, then exit 75
  lockr run -s catalogue -- ./report                share the key with other readers
  lockr run tenant:7 tenant:9 -- ./transfer         both keys, or neither
  lockr run deploy -c 'make && make install'        a line of shell
  lockr run -n --at-least 2m sync -- ./sync         of many hosts one runs it, once in two minutes (Redis)
)";

constexpr std::string_view kWhoUsage = R"(
Usage: lockr who [OPTIONS] [KEY]

One line for each holder and each waiter, of KEY alone if it is given, as far as the engine can tell. Bytes that could
drive a terminal are printed as escapes such as \x1b.
)";

constexpr std::string_view kWhoFooter =
    R"(With --json the output is an array of objects with the fields key, mode ("exclusive", "shared"), state ("held",
"waiting"), host, pid (null: unknown), label and since (UTC, null: not recorded). A key or label that is not UTF-8
is followed by its exact bytes in key_hex or label_hex.

Examples:
  lockr who
  lockr who --json nightly | jq -r '.[] | select(.state == "held") | .pid'
)";

constexpr std::string_view kWhyUsage = R"(
Usage: lockr why [OPTIONS] KEY

Says who keeps KEY, which keys those wait for themselves and who keeps them, and so on; then who waits for KEY. Owners
that may wait for each other are called so.
)";

constexpr std::string_view kWhyFooter =
    R"(With --json the output is an object with the fields key, holders and waiters. Each of them has the fields of
`lockr who --json`; a holder has waits_for, too, a list of {key, mode, holders}, and in_a_circle, true where the
chain came back to it.

Example:
  lockr why nightly
)";

constexpr std::string_view kDoctorUsage = R"(
Usage: lockr doctor [OPTIONS]

Opens the engine, prints what it promises and where its locks are, takes and releases a lock of its own, and tells
what works and what does not. Exit status: 0 all is well, 125 otherwise.
)";

constexpr std::string_view kBackendsUsage = R"(
Usage: lockr backends

Lists the engines this lockr was built with: the name for "backend" in a config, and what it is.
)";

constexpr std::string_view kConfigUsage = R"(
Usage: lockr config check [OPTIONS] [FILE]
       lockr config schema

check: checks FILE, or else the config that the other commands would use, without touching its engine.
schema: prints the JSON Schema of a config file, for editors and other checkers.
Exit status: 0 it is good, 125 otherwise.
)";

constexpr std::string_view kPostgresUsage = R"(
Usage: lockr postgres init [OPTIONS]

Makes what fencing tokens need in the database of the config: the schema lockr and in it the sequence fencing_token, and
what keeps it from going back after a crash of the server. The sequence goes on where it is. Then prints the grants that
the role of a service needs. To be run once, and after an upgrade of lockr, by the same role, which may create a schema
there. Exit status: 0 it is there, 125 otherwise.
)";

constexpr std::string_view kPostgresFooter =
    R"(Examples:
  lockr postgres init --backend postgresql://admin@db/locks --role billing | psql postgresql://admin@db/locks
  lockr postgres init --print > migrations/0007_lockr.sql
)";

class HelpFormatter : public CLI::Formatter {
 public:
  explicit HelpFormatter(std::string_view usage) : usage_(usage) { column_width(28); }
  std::string make_usage(const CLI::App*, std::string) const override { return usage_; }

 private:
  std::string usage_;
};

// One command's parser. What is not an option is collected in extras, so that CLI11 does not read meaning into keys
// ("[a,b]" would be a list).
class Parser {
 public:
  Parser(std::string command, std::string_view summary, std::string_view usage, std::string_view footer = {})
      : app_(std::string(summary)), command_(std::move(command)) {
    app_.formatter(std::make_shared<HelpFormatter>(usage));
    app_.footer(std::string(footer));
    app_.set_help_flag("-h,--help", "print this text");
    app_.set_version_flag("-V,--version", std::string("lockr ") + version(), "print the version");
    app_.allow_extras();
  }

  void flag(const char* names, bool& value, const char* help) { app_.add_flag(names, value, help); }
  CLI::Option* option(const char* names, std::string& value, const char* placeholder, const char* help) {
    return app_.add_option(names, value, help)->option_text(placeholder);
  }

  void engine(EngineChoice& choice) {
    config_given_ = option("--config", choice.config_file, "FILE", "the config, a JSON file");
    url_given_ = option("--backend", choice.url, "URL", "the engine, such as file:/srv/locks; no passwords here");
    config_given_->excludes(url_given_);
    engine_ = &choice;
  }

  /// Parses; nullopt to go on.
  std::optional<int> parse(Arguments arguments) {
    std::reverse(arguments.begin(), arguments.end());
    try {
      app_.parse(arguments);
    } catch (const CLI::CallForHelp&) {
      std::cout << app_.help();
      return kSuccess;
    } catch (const CLI::CallForVersion& version) {
      std::cout << version.what() << '\n';
      return kSuccess;
    } catch (const CLI::ParseError& error) {
      return usage_error(command_, printable(error.what()));
    }
    extras_ = app_.remaining();
    for (const std::string& extra : extras_) {
      if (extra.size() > 1 && extra.starts_with('-')) return wrong("there is no option " + printable(extra));
    }
    if (engine_ == nullptr) return std::nullopt;
    // An unset variable in quotes: the default engine is not what was meant.
    if (config_given_->count() > 0 && engine_->config_file.empty()) return wrong("--config needs a FILE, and got \"\"");
    if (url_given_->count() > 0 && engine_->url.empty()) return wrong("--backend needs a URL, and got \"\"");
    if (has_password(engine_->url)) return wrong(kPassword);
    return std::nullopt;
  }

  const Arguments& extras() const { return extras_; }
  int wrong(std::string_view message) const { return usage_error(command_, message); }

 private:
  static constexpr std::string_view kPassword =
      "the URL given with --backend contains a password, and every user of this host can read command lines. Put the "
      "URL into the environment variable LOCKR_URL, or name a file with --config or LOCKR_CONFIG, in which ${NAME} is "
      "an environment variable and ${file:/path} a file's content. The password was visible: consider changing it";

  CLI::App app_;
  std::string command_;
  EngineChoice* engine_ = nullptr;
  CLI::Option* config_given_ = nullptr;
  CLI::Option* url_given_ = nullptr;
  Arguments extras_;
};

// "2", "0.5": a number of seconds; forever where nanoseconds can't hold it.
std::optional<std::chrono::nanoseconds> parse_seconds(const std::string& text) {
  double seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  const bool number = error == std::errc() && end == text.data() + text.size();
  if (!number || !std::isfinite(seconds) || seconds < 0) return std::nullopt;
  constexpr double kMost = 9e9;  // Just below what 63 bits of nanoseconds hold.
  if (seconds >= kMost) return forever;
  return std::chrono::nanoseconds(std::llround(seconds * 1e9));
}

std::optional<int> parse_status(const std::string& text) {
  int status = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), status);
  if (error != std::errc() || end != text.data() + text.size() || status < 0 || status > 255) return std::nullopt;
  return status;
}

std::string base_name(const std::string& path) {
  const std::size_t slash = path.find_last_of('/');
  return slash == path.npos || slash + 1 == path.size() ? path : path.substr(slash + 1);
}

// What the options of `run` say before it is checked.
struct RunWords {
  bool shared = false, exclusive = false, no_wait = false;
  std::string wait, status, shell, grace = "2", at_least, at_most;
  CLI::Option* wait_given = nullptr;
  CLI::Option* status_given = nullptr;
  CLI::Option* shell_given = nullptr;
  CLI::Option* at_least_given = nullptr;
  CLI::Option* at_most_given = nullptr;
};

void declare_run(Parser& parser, RunOptions& options, RunWords& words) {
  parser.flag("-s,--shared", words.shared, "share the keys with other -s holders");
  parser.flag("-x,-e,--exclusive", words.exclusive, "have the keys alone (the default)");
  parser.flag("-n,--nb,--nonblock", words.no_wait, "don't wait for a holder");
  words.wait_given = parser.option("-w,--wait,--timeout", words.wait, "SECONDS", "wait so long at most; 0 is -n");
  words.status_given = parser.option("-E,--conflict-exit-code", words.status, "CODE", "exit so if not acquired (1)");
  words.shell_given = parser.option("-c,--command", words.shell, "STRING", "run STRING with /bin/sh -c");
  parser.option("--grace", words.grace, "SECONDS", "time from SIGTERM to SIGKILL (2)");
  words.at_least_given =
      parser.option("--at-least", words.at_least, "TIME", "keep the keys from everyone so long, 30s");
  words.at_most_given = parser.option("--at-most", words.at_most, "TIME", "end the command after so long, 5m");
  parser.option("--label", options.label, "TEXT", "who we are in `lockr who` (the command's name)");
  parser.flag("--verbose", options.verbose, "say on standard error what happens");
  parser.engine(options.engine);
}

// A number of seconds, or with a unit.
std::optional<std::chrono::nanoseconds> parse_time(const std::string& text) {
  if (const auto seconds = parse_seconds(text)) return seconds;
  const auto duration = parse_duration(text);
  return duration ? std::optional<std::chrono::nanoseconds>(*duration) : std::nullopt;
}

std::optional<int> read_window(const Parser& parser, const RunWords& words, RunOptions& options) {
  const auto read = [&](const CLI::Option* given, const std::string& text, std::chrono::nanoseconds& out) {
    if (given->count() == 0) return true;
    const auto time = parse_time(text);
    if (time) out = *time;
    return time && *time > std::chrono::nanoseconds(0);
  };
  const auto wrong = [&](const std::string& option, const std::string& text) {
    return parser.wrong(option + " takes a time above 0, such as 30s or 5m, not \"" + printable(text) + "\"");
  };
  if (!read(words.at_least_given, words.at_least, options.at_least)) return wrong("--at-least", words.at_least);
  if (!read(words.at_most_given, words.at_most, options.at_most)) return wrong("--at-most", words.at_most);
  if (options.at_most < options.at_least) return parser.wrong("--at-most is less than --at-least");
  if (options.at_least.count() > 0 && options.mode == Mode::shared) {
    return parser.wrong("--at-least is for keys that are held alone; leave -s away");
  }
  return std::nullopt;
}

std::optional<int> read_numbers(const Parser& parser, const RunWords& words, RunOptions& options) {
  if (words.shared && words.exclusive) return parser.wrong("-s and -x exclude each other");
  options.mode = words.shared ? Mode::shared : Mode::exclusive;
  options.timeout = words.no_wait ? std::chrono::nanoseconds(0) : forever;
  if (words.wait_given->count() > 0) {
    if (words.no_wait) return parser.wrong("-n and -w exclude each other");
    const auto wait = parse_seconds(words.wait);
    if (!wait) return parser.wrong("-w takes a number of seconds, such as 2.5, not \"" + printable(words.wait) + "\"");
    options.timeout = *wait;
  }
  if (words.status_given->count() > 0) {
    const auto status = parse_status(words.status);
    if (!status) return parser.wrong("-E takes a status from 0 to 255, not \"" + printable(words.status) + "\"");
    options.not_acquired_status = *status;
  }
  const auto grace = parse_seconds(words.grace);
  if (!grace || *grace > std::chrono::hours(1)) {
    return parser.wrong("--grace takes a number of seconds, an hour at most, not \"" + printable(words.grace) + "\"");
  }
  options.grace = *grace;
  return read_window(parser, words, options);
}

std::optional<int> read_command(const Parser& parser, const RunWords& words, bool separator, bool keys_on_both_sides,
                                RunOptions& options) {
  if (words.shell_given->count() > 0) {
    if (separator) return parser.wrong("-c STRING and a command after -- exclude each other");
    if (keys_on_both_sides) {
      return parser.wrong("KEYs on both sides of -c STRING; put a STRING of several words in quotes");
    }
    options.command = {"/bin/sh", "-c", words.shell};
  }
  if (options.command.empty()) return parser.wrong("no command: put it after --, or give a line of shell with -c");
  if (options.command.front().empty()) return parser.wrong("the command's name is empty");
  if (options.label.empty()) options.label = base_name(options.command.front());
  return std::nullopt;
}

std::optional<int> read_keys(const Parser& parser, std::vector<Key>& keys) {
  if (parser.extras().empty()) return parser.wrong("no KEY: name what to lock, such as nightly or tenant:42");
  for (const std::string& text : parser.extras()) {
    auto key = Key::parse(text);
    if (!key) return parser.wrong("\"" + printable(text) + "\" is no key: " + describe(key.error()));
    keys.push_back(std::move(*key));
  }
  return std::nullopt;
}

}  // namespace

Parsed<RunOptions> parse_run(const Arguments& arguments) {
  const auto separator = std::find(arguments.begin(), arguments.end(), "--");
  const bool separated = separator != arguments.end();
  RunOptions options;
  if (separated) options.command.assign(separator + 1, arguments.end());
  Parser parser("run", "Holds keys while a command runs.", kRunUsage, kRunFooter);
  RunWords words;
  declare_run(parser, options, words);
  if (auto status = parser.parse({arguments.begin(), separator})) return *status;
  if (auto status = read_numbers(parser, words, options)) return *status;
  if (auto status = read_keys(parser, options.keys)) return *status;
  const auto place = [&](const std::string& word) { return std::find(arguments.begin(), arguments.end(), word); };
  const bool keys_on_both_sides =
      place(parser.extras().front()) < place(words.shell) && place(parser.extras().back()) > place(words.shell);
  if (auto status = read_command(parser, words, separated, keys_on_both_sides, options)) return *status;
  return options;
}

Parsed<WhoOptions> parse_who(const Arguments& arguments) {
  WhoOptions options;
  Parser parser("who", "Lists who holds and who waits for keys.", kWhoUsage, kWhoFooter);
  parser.flag("--json", options.json, "print JSON");
  parser.engine(options.engine);
  if (auto status = parser.parse(arguments)) return *status;
  if (parser.extras().size() > 1) return parser.wrong("one KEY at most");
  std::vector<Key> keys;
  if (!parser.extras().empty()) {
    if (auto status = read_keys(parser, keys)) return *status;
    options.key = std::move(keys.front());
  }
  return options;
}

Parsed<WhyOptions> parse_why(const Arguments& arguments) {
  WhyOptions options;
  Parser parser("why", "Says who keeps a key.", kWhyUsage, kWhyFooter);
  parser.flag("--json", options.json, "print JSON");
  parser.engine(options.engine);
  if (auto status = parser.parse(arguments)) return *status;
  if (parser.extras().size() > 1) return parser.wrong("one KEY only");
  std::vector<Key> keys;
  if (auto status = read_keys(parser, keys)) return *status;
  options.key = std::move(keys.front());
  return options;
}

Parsed<EngineChoice> parse_doctor(const Arguments& arguments) {
  EngineChoice choice;
  Parser parser("doctor", "Checks a config against its live engine.", kDoctorUsage);
  parser.engine(choice);
  if (auto status = parser.parse(arguments)) return *status;
  if (!parser.extras().empty()) return parser.wrong("it takes options only");
  return choice;
}

std::optional<int> parse_backends(const Arguments& arguments) {
  Parser parser("backends", "Lists the engines this lockr was built with.", kBackendsUsage);
  if (auto status = parser.parse(arguments)) return *status;
  if (!parser.extras().empty()) return parser.wrong("it takes no arguments");
  return std::nullopt;
}

Parsed<ConfigOptions> parse_config(const Arguments& arguments) {
  ConfigOptions options;
  EngineChoice& choice = options.engine;
  Parser parser("config", "Checks a config without touching its engine.", kConfigUsage);
  parser.engine(choice);
  if (auto status = parser.parse(arguments)) return *status;
  const Arguments& words = parser.extras();
  if (words.size() == 1 && words.front() == "schema") {
    if (!choice.config_file.empty() || !choice.url.empty())
      return parser.wrong("the schema is the same for any config");
    options.schema = true;
    return options;
  }
  if (words.empty() || words.front() != "check") {
    return parser.wrong("say what to do: lockr config check or lockr config schema");
  }
  if (words.size() > 2) return parser.wrong("one FILE at most");
  if (words.size() == 2) {
    if (!choice.config_file.empty() || !choice.url.empty())
      return parser.wrong("FILE, --config or --backend: only one");
    choice.config_file = words[1];
  }
  return options;
}

Parsed<PostgresOptions> parse_postgres(const Arguments& arguments) {
  PostgresOptions options;
  options.role = "ROLE";
  Parser parser("postgres", "Makes a PostgreSQL database ready for fencing tokens.", kPostgresUsage, kPostgresFooter);
  parser.flag("--print", options.print, "only print the SQL, for those who run it themselves");
  parser.option("--role", options.role, "NAME", "the role in the grants (ROLE, to be replaced)");
  parser.engine(options.engine);
  if (auto status = parser.parse(arguments)) return *status;
  if (parser.extras() != Arguments{"init"}) return parser.wrong("say what to do: lockr postgres init");
  if (options.role.empty()) return parser.wrong("--role needs a NAME, and got \"\"");
  return options;
}

std::string program_help() { return std::string(kProgramHelp); }

int usage_error(std::string_view command, std::string_view message) {
  const std::string help = "lockr" + (command.empty() ? "" : ' ' + std::string(command)) + " --help";
  complain(std::string(message) + "; see `" + help + "`");
  return kUsage;
}

}  // namespace lockr::cli
