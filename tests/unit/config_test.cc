#include "lockr/config.h"

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>

#include "lockr/locker.h"
#include "lockr/spi/section.h"
#include "tests/unit/config_corpus.h"
#include "tests/unit/fails_with.h"

namespace lockr {
namespace {

using namespace std::chrono_literals;
using Strings = std::vector<std::string>;

constexpr auto invalid = errc::invalid_config;
constexpr auto kNotADuration = "expected a duration, one number and its unit (ns, us, ms, s, m or h) such as \"1.5s\"";
constexpr auto kTopFields =
    "known: namespace, label, acquire_timeout, connect_timeout, reply_timeout, release_timeout, require, accept_risk, "
    "limits, backend, plugin, file)";

Result<LockerConfig> parsed(const std::string& text) {
  add_to_corpus(text);
  return LockerConfig::from_json(text);
}

Result<LockerConfig> with(const std::string& fields) { return parsed(R"({"backend": "file", )" + fields + "}"); }

/// An environment variable for the length of a test.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  ~Variable() { unsetenv(name_); }

 private:
  const char* name_;
};

/// A directory that goes away with its files.
class Directory {
 public:
  Directory() {
    char name[] = "/tmp/lockr-config-test-XXXXXX";
    path_ = mkdtemp(name);
    chmod(path_.c_str(), 0755);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() {
    for (const auto& file : files_) unlink(file.c_str());
    rmdir(path_.c_str());
  }
  std::string file(const std::string& name, std::string_view content) {
    files_.push_back(path_ + "/" + name);
    std::ofstream(files_.back(), std::ios::binary) << content;
    return files_.back();
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  Strings files_;
};

TEST(Config, has_defaults) {
  const auto config = parsed(R"({"backend": "memory"})");
  ASSERT_TRUE(config) << config.error().to_string();
  EXPECT_EQ(config->backend(), "memory");
  EXPECT_EQ(config->plugin(), "");
  EXPECT_EQ(config->key_namespace(), "");
  EXPECT_EQ(config->label(), "");
  EXPECT_EQ(config->acquire_timeout(), 30s);
  EXPECT_EQ(config->connect_timeout(), 5s);
  EXPECT_EQ(config->reply_timeout(), 3s);
  EXPECT_EQ(config->release_timeout(), 5s);
  EXPECT_TRUE(config->require().empty());
  EXPECT_FALSE(config->accepts_risk("shared_directory"));
  EXPECT_EQ(config->limits().held, 0u);
  EXPECT_EQ(config->limits().waiters, 100000u);
  EXPECT_EQ(config->limits().handoff, 32u);
  EXPECT_TRUE(config->section().allow_only({}));
}

TEST(Config, reads_every_field) {
  const auto config = parsed(R"({
    "backend": "file", "plugin": "/opt/lockr/file.so", "namespace": "app", "label": "worker 7",
    "acquire_timeout": "forever", "connect_timeout": "250ms", "reply_timeout": "1.5s", "release_timeout": "1h",
    "require": ["cross_process", "fencing"], "accept_risk": ["shared_directory", "network_file_system"],
    "limits": {"held": 7, "waiters": 8, "handoff": 0},
    "file": {"directory": "/run/x"}
  })");
  ASSERT_TRUE(config) << config.error().to_string();
  EXPECT_EQ(config->plugin(), "/opt/lockr/file.so");
  EXPECT_EQ(config->key_namespace(), "app");
  EXPECT_EQ(config->label(), "worker 7");
  EXPECT_EQ(config->acquire_timeout(), forever);
  EXPECT_EQ(config->connect_timeout(), 250ms);
  EXPECT_EQ(config->reply_timeout(), 1500ms);
  EXPECT_EQ(config->release_timeout(), 1h);
  EXPECT_EQ(config->require(), (Strings{"cross_process", "fencing"}));
  EXPECT_TRUE(config->accepts_risk("shared_directory"));
  EXPECT_TRUE(config->accepts_risk("network_file_system"));
  EXPECT_FALSE(config->accepts_risk("network"));
  EXPECT_EQ(config->limits().held, 7u);
  EXPECT_EQ(config->limits().waiters, 8u);
  EXPECT_EQ(config->limits().handoff, 0u);
  EXPECT_EQ(config->section().string("directory").value(), "/run/x");
}

TEST(Config, is_usable_after_a_move) {
  auto config = parsed(R"({"backend": "memory"})").value();
  const LockerConfig moved = std::move(config);
  EXPECT_EQ(config.backend(), "memory");  // NOLINT(bugprone-use-after-move, clang-analyzer-cplusplus.Move)
  EXPECT_EQ(moved.backend(), "memory");
}

TEST(Config, says_where_and_why_text_is_not_json) {
  const auto why = [](const std::string& text, const std::string& reason) {
    return fails_with(invalid, "the config is not JSON at " + reason, parsed(text));
  };
  EXPECT_TRUE(why("", "line 1, column 1: unexpected end of input; expected '[', '{', or a literal"));
  EXPECT_TRUE(why("backend: file", "line 1, column 1: invalid literal"));
  EXPECT_TRUE(why("{\n  \"backend\" \"memory\"\n}", "line 2, column 20: unexpected string literal; expected ':'"));
  EXPECT_TRUE(why(R"({"backend": "memory"}x)", "line 1, column 22: invalid literal; expected end of input"));
  EXPECT_TRUE(why("{\"backend\": \"\xff\"}", "line 1, column 14: invalid string: ill-formed UTF-8 byte"));
  EXPECT_TRUE(why(R"({"backend": "file", })",
                  "line 1, column 21: unexpected '}'; expected string literal (no comma behind the last one)"));
  EXPECT_TRUE(
      why("{ // the engine\n}", "line 1, column 3: invalid literal; expected string literal (JSON has no comments)"));
  EXPECT_TRUE(why("{'backend': 'file'}",
                  "line 1, column 2: invalid literal; expected string literal (JSON has text in double quotes)"));
  EXPECT_TRUE(fails_with(invalid, "expected an object, for example { \"backend\": \"file\" }", parsed("[]")));
}

TEST(Config, never_repeats_text_that_is_not_json) {
  for (const std::string text : {R"({"backend": hunter2)", R"({"backend": "hunter2)", R"({"a": "b" hunter2})",
                                 "hunter2", R"({"a": "b"; last read: 'hunter2'; expected })", R"({"a": "\hunter2"})",
                                 "{\"a\": \"hunter2\n\"}", R"({"a": 9e9999, "b": hunter2})"}) {
    const auto config = parsed(text);
    ASSERT_FALSE(config) << text;
    EXPECT_EQ(config.error().to_string().find("hunter2"), std::string::npos) << config.error().to_string();
  }
}

TEST(Config, refuses_a_config_without_a_backend) {
  EXPECT_TRUE(
      fails_with(invalid, "/backend: expected the name of a backend, such as \"file\"; it is missing", parsed("{}")));
  EXPECT_TRUE(fails_with(invalid, "/backend: expected the name of a backend, such as \"file\"",
                         parsed(R"({"backend": "no name"})")));
  EXPECT_TRUE(fails_with(invalid, "/backend: expected a string, found a number", parsed(R"({"backend": 5})")));
}

TEST(Config, finds_the_misspelt_backend_among_the_fields) {
  const auto config = parsed(R"({"label": "a", "backnd": "file", "file": {}})");
  ASSERT_FALSE(config);
  EXPECT_TRUE(config.error().message().starts_with("/backnd: unknown field; the nearest known one is \"backend\" ("))
      << config.error().message();
  EXPECT_TRUE(fails_with(invalid, "/backend: expected the name of a backend, such as \"file\"; it is missing",
                         parsed(R"({"file": {"directory": "/x"}})")));
}

TEST(Config, names_the_nearest_field_for_an_unknown_one) {
  EXPECT_TRUE(fails_with(
      invalid,
      std::string("/acquire_timout: unknown field; the nearest known one is \"acquire_timeout\" (") + kTopFields,
      with(R"("acquire_timout": "5s")")));
  EXPECT_TRUE(fails_with(invalid,
                         "/limits/holds: unknown field; the nearest known one is \"held\" (known: held, waiters, "
                         "handoff)",
                         with(R"("limits": {"holds": 5})")));
}

TEST(Config, refuses_the_section_of_another_backend) {
  EXPECT_TRUE(fails_with(invalid,
                         std::string("/filet: unknown field; the nearest known one is \"file\" (") + kTopFields,
                         with(R"("filet": {})")));
}

TEST(Config, refuses_a_duplicate_field_anywhere) {
  EXPECT_TRUE(fails_with(invalid, "/label: duplicate field; give it once",
                         with(R"("label": "a", "limits": {}, "label": "a")")));
  EXPECT_TRUE(fails_with(invalid, "/file/a~1b~0: duplicate field; give it once",
                         with(R"("file": {"a/b~": 1, "c": 2, "a/b~": 1})")));
}

TEST(Config, refuses_depth_bombs) {
  std::string pointer;
  for (int i = 0; i < 16; ++i) pointer += "/0";
  EXPECT_TRUE(
      fails_with(invalid, pointer + ": the config nests deeper than 16 levels", parsed(std::string(1'000'000, '['))));
  const auto nested = [](std::size_t levels) {
    return with(R"("file": {"a": )" + std::string(levels, '[') + std::string(levels, ']') + "}");
  };
  EXPECT_TRUE(nested(14));
  EXPECT_FALSE(nested(15));
}

TEST(Config, refuses_objects_of_too_many_fields) {
  std::string fields = "\"0\": 0";
  for (int i = 1; i < 300; ++i) fields += ", \"" + std::to_string(i) + "\": 0";
  EXPECT_TRUE(fails_with(invalid, "/file/256: more than 256 fields in one object", with("\"file\": {" + fields + "}")));
}

TEST(Config, shows_field_names_without_control_bytes) {
  EXPECT_TRUE(
      fails_with(invalid, "/a\\x1b[1mb: duplicate field; give it once", with(R"("a\u001b[1mb": 1, "a\u001b[1mb": 1)")));
}

TEST(Config, refuses_fields_of_the_wrong_type) {
  const auto is = [](const std::string& field, const std::string& message) {
    return fails_with(invalid, message, with(field));
  };
  EXPECT_TRUE(is(R"("label": 5)", "/label: expected a string, found a number"));
  EXPECT_TRUE(is(R"("label": null)", "/label: expected a string, found null"));
  EXPECT_TRUE(is(R"("namespace": ["a"])", "/namespace: expected a string, found an array"));
  EXPECT_TRUE(is(R"("acquire_timeout": 5)",
                 "/acquire_timeout: expected a duration with its unit, such as \"1.5s\", found a number"));
  EXPECT_TRUE(is(R"("require": "fencing")", "/require: expected an array of strings, found a string"));
  EXPECT_TRUE(is(R"("accept_risk": ["a", true])", "/accept_risk/1: expected a string, found a boolean"));
  EXPECT_TRUE(is(R"("limits": [])", "/limits: expected an object"));
  EXPECT_TRUE(
      is(R"("limits": {"held": "5"})", "/limits/held: expected an integer from 0 to 1000000000, found a string"));
  EXPECT_TRUE(is(R"("limits": {"held": 1.5})",
                 "/limits/held: expected an integer from 0 to 1000000000, found a number that is no 64-bit integer"));
  EXPECT_TRUE(is(R"("file": "/run/x")", "/file: expected an object, the settings of the backend"));
}

TEST(Config, refuses_values_out_of_range) {
  const auto is = [](const std::string& field, const std::string& message) {
    return fails_with(invalid, message, with(field));
  };
  EXPECT_TRUE(is(R"("limits": {"held": -1})", "/limits/held: expected an integer from 0 to 1000000000, found -1"));
  EXPECT_TRUE(is(R"("limits": {"waiters": 0})", "/limits/waiters: expected an integer from 1 to 10000000, found 0"));
  EXPECT_TRUE(is(R"("limits": {"handoff": 1001})", "/limits/handoff: expected an integer from 0 to 1000, found 1001"));
  EXPECT_TRUE(is(R"("connect_timeout": "0s")", "/connect_timeout: expected a duration from 1ms to 1h; found \"0s\""));
  EXPECT_TRUE(
      is(R"("reply_timeout": "forever")", "/reply_timeout: expected a duration from 1ms to 1h; found \"forever\""));
  EXPECT_TRUE(is(R"("release_timeout": "61m")", "/release_timeout: expected a duration from 1ms to 1h; found \"61m\""));
  EXPECT_TRUE(is(R"("acquire_timeout": "8761h")",
                 "/acquire_timeout: expected a duration from 0s to 8760h, or \"forever\"; found \"8761h\""));
  EXPECT_EQ(with(R"("acquire_timeout": "0s")").value().acquire_timeout(), 0ns);
  EXPECT_TRUE(is("\"label\": \"" + std::string(129, 'x') + "\"", "/label: expected at most 128 bytes"));
  EXPECT_TRUE(with("\"label\": \"" + std::string(128, 'x') + "\""));
  EXPECT_TRUE(is(R"("namespace": "a:b")", "/namespace: expected a scope: 1 to 1,024 bytes without ':'"));
  EXPECT_TRUE(is(R"("namespace": "")", "/namespace: expected a scope: 1 to 1,024 bytes without ':'"));
  EXPECT_TRUE(is(R"("plugin": "file.so")", "/plugin: expected the absolute path of a module"));
}

TEST(Config, refuses_a_duration_without_a_unit) {
  EXPECT_TRUE(fails_with(invalid, std::string("/acquire_timeout: ") + kNotADuration + "; found \"30\"",
                         with(R"("acquire_timeout": "30")")));
}

TEST(Config, refuses_an_unknown_capability) {
  EXPECT_TRUE(fails_with(invalid,
                         "/require/1: no capability; the nearest known one is \"cross_host\" (known: shared, fencing, "
                         "cross_process, cross_host, fair, hold_at_least); found \"crosshost\"",
                         with(R"("require": ["shared", "crosshost"])")));
}

TEST(Config, resolves_references_in_strings) {
  const Variable name("LOCKR_TEST_NAME", "db:7");
  Directory directory;
  const std::string file = directory.file("secret", "s3cret\n\n");
  const auto config = with(R"("label": "${LOCKR_TEST_NAME}/${LOCKR_TEST_NAME}$", "file": {"a": "<${file:)" + file +
                           R"(}>", "b": "$${LOCKR_TEST_NAME} $x", "c": ["${LOCKR_TEST_NAME}"]})");
  ASSERT_TRUE(config) << config.error().to_string();
  EXPECT_EQ(config->label(), "db:7/db:7$");
  EXPECT_EQ(config->section().string("a").value(), "<s3cret\n>");
  EXPECT_EQ(config->section().string("b").value(), "${LOCKR_TEST_NAME} $x");
  EXPECT_EQ(config->section().strings("c").value(), Strings{"db:7"});
}

TEST(Config, does_not_resolve_what_a_reference_brought) {
  const Variable name("LOCKR_TEST_NAME", "${HOME}");
  const auto config = with(R"("label": "${LOCKR_TEST_NAME}")");
  ASSERT_TRUE(config) << config.error().to_string();
  EXPECT_EQ(config->label(), "${HOME}");
}

TEST(Config, refuses_references_it_cannot_resolve) {
  unsetenv("LOCKR_TEST_UNSET");
  const auto is = [](const std::string& text, const std::string& message) {
    return fails_with(invalid, "/label: " + message, with("\"label\": \"" + text + "\""));
  };
  constexpr auto kForm = "expected ${NAME} or ${file:/path}; a literal \"${\" is written \"$${\"";
  EXPECT_TRUE(is("${LOCKR_TEST_UNSET}",
                 "the environment variable LOCKR_TEST_UNSET is not set; set it or write the value itself"));
  EXPECT_TRUE(is("${}", kForm));
  EXPECT_TRUE(is("${1A}", kForm));
  EXPECT_TRUE(is("${A B}", kForm));
  EXPECT_TRUE(is("${A", "\"${\" without its \"}\"; a literal \"${\" is written \"$${\""));
  EXPECT_TRUE(is("${file:relative}", "expected an absolute path in ${file:/path}"));
  EXPECT_TRUE(is("${file:/nonexistent/secret}", "the file /nonexistent/secret does not exist"));
  EXPECT_TRUE(is("a\\u0000b", "expected text without NUL bytes"));
}

TEST(Config, never_shows_what_a_reference_brought) {
  const Variable name("LOCKR_TEST_SECRET", "hunter2");
  EXPECT_TRUE(fails_with(
      invalid, std::string("/acquire_timeout: ") + kNotADuration + "; found the value of a reference, not shown",
      with(R"("acquire_timeout": "${LOCKR_TEST_SECRET}")")));
  for (const auto* fields : {R"("require": ["${LOCKR_TEST_SECRET}"])", R"("connect_timeout": "${LOCKR_TEST_SECRET}")",
                             R"("plugin": "${LOCKR_TEST_SECRET}")", R"("file": "${LOCKR_TEST_SECRET}")"}) {
    const auto config = with(fields);
    ASSERT_FALSE(config) << fields;
    EXPECT_EQ(config.error().to_string().find("hunter2"), std::string::npos) << config.error().to_string();
  }
}

// Runs this program again, with more rights than its caller has: as root, with the file's owner as effective user.
TEST(Config, of_a_setuid_program_takes_nothing_from_the_environment) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to make a setuid program";
  if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1) GTEST_SKIP() << "this process may get no new rights";
  Directory directory;
  std::ifstream self("/proc/self/exe", std::ios::binary);
  const std::string copy = directory.file("copy", std::string(std::istreambuf_iterator<char>(self), {}));
  ASSERT_EQ(chown(copy.c_str(), 65534, 65534), 0);
  ASSERT_EQ(chmod(copy.c_str(), 04755), 0);
  struct statvfs where {};
  ASSERT_EQ(statvfs(copy.c_str(), &where), 0);
  if ((where.f_flag & ST_NOSUID) != 0) GTEST_SKIP() << "the file system of " << copy << " has no setuid programs";
  const std::string command = copy + " --gtest_filter=Config.does_not_resolve_what_a_reference_brought 2>&1";
  std::FILE* const pipe = popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string output;
  for (int c = 0; (c = std::fgetc(pipe)) != EOF;) output += static_cast<char>(c);
  EXPECT_NE(pclose(pipe), 0) << output;
  EXPECT_NE(output.find("LOCKR_TEST_NAME is not set"), std::string::npos) << output;
}

TEST(ConfigFile, is_read) {
  Directory directory;
  const auto config = LockerConfig::from_file(directory.file("lockr.json", R"({"backend": "memory"})"));
  ASSERT_TRUE(config) << config.error().to_string();
  EXPECT_EQ(config->backend(), "memory");
}

TEST(ConfigFile, is_named_in_errors) {
  Directory directory;
  const std::string path = directory.file("lockr.json", R"({"backend": 5})");
  EXPECT_TRUE(
      fails_with(invalid, path + ": /backend: expected a string, found a number", LockerConfig::from_file(path)));
}

TEST(ConfigFile, that_is_missing_is_refused) {
  const auto config = LockerConfig::from_file("/nonexistent/lockr.json");
  EXPECT_TRUE(fails_with(invalid, "the file /nonexistent/lockr.json does not exist", config));
  EXPECT_EQ(config.error().native(), "ENOENT");
}

TEST(ConfigFile, that_is_a_directory_is_refused) {
  Directory directory;
  const auto config = LockerConfig::from_file(directory.path());
  EXPECT_TRUE(fails_with(invalid, "the file " + directory.path() + " can't be read", config));
  EXPECT_EQ(config.error().native(), "EISDIR");
}

TEST(ConfigFile, over_one_mebibyte_is_refused) {
  Directory directory;
  const std::string json = R"({"backend": "memory"})";
  const std::string most = json + std::string((1 << 20) - json.size(), ' ');
  EXPECT_TRUE(LockerConfig::from_file(directory.file("most", most)));
  const std::string path = directory.file("more", most + " ");
  EXPECT_TRUE(fails_with(invalid, "the file " + path + " is larger than 1 MiB", LockerConfig::from_file(path)));
  EXPECT_TRUE(fails_with(invalid, "the file /dev/zero is larger than 1 MiB", LockerConfig::from_file("/dev/zero")));
}

// Root may read everything, so the reading is done as another user in a child of this process.
TEST(ConfigFileDeathTest, that_may_not_be_read_is_access_denied) {
  Directory directory;
  const std::string path = directory.file("lockr.json", "{}");
  ASSERT_EQ(chmod(path.c_str(), 0), 0);
  const auto read_unprivileged = [&] {
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(2);
    const auto config = LockerConfig::from_file(path);
    std::fputs(config ? "was read" : config.error().to_string().c_str(), stderr);
    _exit(!config && config.error().code() == errc::access_denied ? 0 : 1);
  };
  EXPECT_EXIT(read_unprivileged(), testing::ExitedWithCode(0), path + " can't be opened \\(EACCES\\)");
}

TEST(ConfigFile, with_a_password_that_everybody_may_read_is_refused) {
  const Variable secret("LOCKR_TEST_SECRET", "hunter2");
  Directory directory;
  const auto read = [&](const std::string& json, mode_t mode) {
    const std::string path = directory.file("lockr.json", json);
    chmod(path.c_str(), mode);
    return LockerConfig::from_file(path);
  };
  const auto redis = [](const std::string& fields) { return R"({"backend": "redis", "redis": {)" + fields + "}}"; };
  for (const std::string& json :
       {redis(R"("password": "hunter2")"), redis(R"("url": "redis://u:hunter2@cache")"),
        redis(R"("url": "redis://cache?password=hunter2")"),
        std::string(R"({"backend": "postgres", "postgres": {"dsn": "host=db password = 'hunter2'"}})"),
        std::string(R"({"backend": "postgres", "postgres": {"dsn": "postgresql://u:hunter2@db/x?sslmode=require"}})"),
        std::string(R"({"backend": "own", "own": {"deep": [{"clientSecret": "hunter2"}]}})")}) {
    const auto refused = read(json, 0644);
    ASSERT_FALSE(refused) << json;
    EXPECT_EQ(refused.error().code(), errc::unsafe_setup) << json;
    EXPECT_NE(refused.error().message().find("chmod o-r"), std::string::npos);
    EXPECT_EQ(refused.error().message().find("hunter2"), std::string::npos);
    EXPECT_TRUE(read(json, 0640)) << json;
    EXPECT_TRUE(read(R"({"accept_risk": ["readable_config"], )" + json.substr(1), 0644)) << json;
  }
  for (const std::string& json :
       {redis(R"("password": "${LOCKR_TEST_SECRET}")"), redis(R"("url": "redis://u@cache")"),
        redis(R"("url": "redis://cache:6379/1")"), redis(R"("url": "redis://u:@cache")"),
        std::string(R"({"backend": "postgres", "postgres": {"dsn": "host=db passfile=/run/pass password="}})"),
        std::string(R"({"backend": "own", "own": {"password_file": "/run/secret", "secrets": []}})")}) {
    const auto config = read(json, 0644);
    EXPECT_TRUE(config) << json << (config ? "" : config.error().to_string());
  }
}

TEST(ConfigFile, that_names_a_module_belongs_to_root_or_this_user) {
  Directory directory;
  const std::string path = directory.file("lockr.json", R"({"backend": "own", "plugin": "/usr/lib/own.so"})");
  chmod(path.c_str(), 0644);
  EXPECT_TRUE(LockerConfig::from_file(path));
  chmod(path.c_str(), 0646);
  const auto writable = LockerConfig::from_file(path);
  ASSERT_FALSE(writable);
  EXPECT_EQ(writable.error().code(), errc::unsafe_setup);
  EXPECT_NE(writable.error().message().find("chmod o-w"), std::string::npos);
  if (geteuid() != 0) return;  // Only root can give files away.
  chmod(path.c_str(), 0644);
  ASSERT_EQ(chown(path.c_str(), 65534, 65534), 0);
  const auto foreign = LockerConfig::from_file(path);
  ASSERT_FALSE(foreign);
  EXPECT_EQ(foreign.error().code(), errc::unsafe_setup);
  EXPECT_NE(foreign.error().message().find("user 65534"), std::string::npos);
}

TEST(ConfigUrl, names_the_backend_and_leaves_the_rest_to_it) {
  const auto config = LockerConfig::from_url("FILE:/run/x%20y?group=a&size=5");
  ASSERT_TRUE(config) << config.error().to_string();
  EXPECT_EQ(config->backend(), "file");
  EXPECT_EQ(config->section().string("url").value(), "file:/run/x%20y?group=a&size=5");
  EXPECT_EQ(config->acquire_timeout(), 30s);
}

TEST(ConfigUrl, sets_top_level_fields) {
  const auto config = LockerConfig::from_url(
      "redis+unix://h/1?lockr.namespace=app&a=1&lockr.label=worker%207%2b&lockr.acquire_timeout=forever"
      "&lockr.connect_timeout=1s&lockr.reply_timeout=2s&lockr.release_timeout=4s&b=2&lockr.require=fencing,shared"
      "&lockr.accept_risk=x&lockr.limits.held=5&lockr.limits.waiters=6&lockr.limits.handoff=7");
  ASSERT_TRUE(config) << config.error().to_string();
  EXPECT_EQ(config->backend(), "redis+unix");
  EXPECT_EQ(config->section().string("url").value(), "redis+unix://h/1?a=1&b=2");
  EXPECT_EQ(config->key_namespace(), "app");
  EXPECT_EQ(config->label(), "worker 7+");
  EXPECT_EQ(config->acquire_timeout(), forever);
  EXPECT_EQ(config->connect_timeout(), 1s);
  EXPECT_EQ(config->reply_timeout(), 2s);
  EXPECT_EQ(config->release_timeout(), 4s);
  EXPECT_EQ(config->require(), (Strings{"fencing", "shared"}));
  EXPECT_TRUE(config->accepts_risk("x"));
  EXPECT_EQ(config->limits().held, 5u);
  EXPECT_EQ(config->limits().waiters, 6u);
  EXPECT_EQ(config->limits().handoff, 7u);
}

TEST(ConfigUrl, is_refused_without_a_scheme) {
  constexpr auto kMessage = "the URL has no scheme; write for example \"file:\" or \"file:/run/lock/app\"";
  for (const auto* url : {"", "hunter2", ":x", "/run/x", "2x:y", "us er:hunter2@h"}) {
    EXPECT_TRUE(fails_with(invalid, kMessage, LockerConfig::from_url(url))) << url;
  }
  EXPECT_TRUE(fails_with(invalid, "the URL has a control character in it; write it as '%' and two hexadecimal digits",
                         LockerConfig::from_url("file:/run/x\n")));
}

TEST(ConfigUrl, parameters_are_checked_as_fields_are) {
  const auto is = [](const std::string& parameters, const std::string& message) {
    return fails_with(invalid, message, LockerConfig::from_url("file:?" + parameters));
  };
  EXPECT_TRUE(is("lockr.acquire_timeout=5",
                 std::string("the URL's parameter lockr.acquire_timeout: ") + kNotADuration + "; found \"5\""));
  EXPECT_TRUE(is("lockr.limits.held=many",
                 "the URL's parameter lockr.limits.held: expected an integer from 0 to 1000000000, found a string"));
  EXPECT_TRUE(is("lockr.label=%4",
                 "the URL's parameter lockr.label: expected two hexadecimal digits after each '%', "
                 "and no NUL byte"));
  EXPECT_TRUE(is("lockr.label=a%00b",
                 "the URL's parameter lockr.label: expected two hexadecimal digits after each "
                 "'%', and no NUL byte"));
  EXPECT_TRUE(is("lockr.label=a&lockr.label=a", "the URL's parameter lockr.label is given twice; give it once"));
  EXPECT_TRUE(is("lockr.limits.held=1&lockr.limits.held=1",
                 "the URL's parameter lockr.limits.held is given twice; give it once"));
  EXPECT_TRUE(is("lockr.label", "the URL's parameter lockr.label has no value; write lockr.label=VALUE"));
  EXPECT_TRUE(
      is("lockr.namespace=a:b", "the URL's parameter lockr.namespace: expected a scope: 1 to 1,024 bytes without ':'"));
  EXPECT_TRUE(is("lockr.lable=a",
                 "the URL has an unknown parameter that starts with \"lockr.\"; without that, the nearest known one is "
                 "\"label\" (known: namespace, label, acquire_timeout, connect_timeout, reply_timeout, "
                 "release_timeout, require, accept_risk, limits.held, limits.waiters, limits.handoff)"));
}

TEST(ConfigUrl, can_not_name_a_module_to_load) {
  EXPECT_FALSE(LockerConfig::from_url("file:?lockr.plugin=/tmp/evil.so"));
  EXPECT_FALSE(LockerConfig::from_url("file:?lockr.backend=memory"));
}

TEST(ConfigUrl, does_not_resolve_references) {
  EXPECT_EQ(LockerConfig::from_url("file:?lockr.label=${HOME}").value().label(), "${HOME}");
}

TEST(ConfigUrl, password_is_in_no_error) {
  for (const std::string parameters :
       {"lockr.acquire_timeout=5", "lockr.lable=a", "lockr.label=%", "lockr.label", "lockr.require=x", "\x01",
        "lockr.label=a&lockr.label=b", "lockr.limits.held=-1"}) {
    const auto config = LockerConfig::from_url("redis://user:hunter2@host/0?" + parameters);
    ASSERT_FALSE(config) << parameters;
    EXPECT_EQ(config.error().to_string().find("hunter2"), std::string::npos) << config.error().to_string();
  }
  const auto config = LockerConfig::from_url("redis://user:hunter2@host/0").value();
  EXPECT_EQ(config.section().invalid("url", "something else").message(), "the URL: expected something else");
  EXPECT_EQ(config.section().allow_only({"directory"}).error().message().find("hunter2"), std::string::npos);
}

TEST(Section, tells_absent_fields_from_wrong_ones) {
  const auto config = with(R"("file": {"s": "x", "b": true, "i": -9223372036854775808, "u": 18446744073709551615,
                                      "d": "2m", "l": ["a", "b"], "n": null})")
                          .value();
  const spi::Section& section = config.section();
  EXPECT_EQ(section.string("s").value(), "x");
  EXPECT_EQ(section.boolean("b").value(), true);
  EXPECT_EQ(section.integer("i").value(), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(section.duration("d").value(), 2min);
  EXPECT_EQ(section.strings("l").value(), (Strings{"a", "b"}));

  EXPECT_EQ(section.string("x").value(), std::nullopt);
  EXPECT_EQ(section.boolean("x").value(), std::nullopt);
  EXPECT_EQ(section.integer("x").value(), std::nullopt);
  EXPECT_EQ(section.duration("x").value(), std::nullopt);
  EXPECT_EQ(section.strings("x").value(), std::nullopt);

  EXPECT_TRUE(fails_with(invalid, "/file/b: expected a string, found a boolean", section.string("b")));
  EXPECT_TRUE(fails_with(invalid, "/file/s: expected true or false, found a string", section.boolean("s")));
  EXPECT_TRUE(fails_with(invalid, "/file/u: expected an integer, found a number that is no 64-bit integer",
                         section.integer("u")));
  EXPECT_TRUE(fails_with(invalid, "/file/i: expected an integer from 1 to 5, found -9223372036854775808",
                         section.integer("i", 1, 5)));
  EXPECT_TRUE(fails_with(invalid, std::string("/file/s: ") + kNotADuration + "; found \"x\"", section.duration("s")));
  EXPECT_TRUE(fails_with(invalid, "/file/s: expected an array of strings, found a string", section.strings("s")));
  EXPECT_TRUE(fails_with(invalid, "/file/n: expected a string, found null", section.string("n")));
  EXPECT_EQ(section.invalid("s", "an absolute path").message(), "/file/s: expected an absolute path");
}

TEST(Section, allows_only_known_fields) {
  const auto config = with(R"("file": {"direktory": "/x"})").value();
  EXPECT_TRUE(config.section().allow_only({"direktory", "group"}));
  EXPECT_TRUE(fails_with(invalid,
                         "/file/direktory: unknown field; the nearest known one is \"directory\" (known: group, "
                         "directory)",
                         config.section().allow_only({"group", "directory"})));
  EXPECT_TRUE(fails_with(invalid, "/file/direktory: unknown field; none is known", config.section().allow_only({})));
}

TEST(Duration, is_one_number_and_a_unit) {
  EXPECT_EQ(parse_duration("7ns").value(), 7ns);
  EXPECT_EQ(parse_duration("7us").value(), 7us);
  EXPECT_EQ(parse_duration("250ms").value(), 250ms);
  EXPECT_EQ(parse_duration("1.5s").value(), 1500ms);
  EXPECT_EQ(parse_duration("90m").value(), 90min);
  EXPECT_EQ(parse_duration("0.25h").value(), 15min);
  EXPECT_EQ(parse_duration("0s").value(), 0ns);
  EXPECT_EQ(parse_duration("1.0ns").value(), 1ns);
  EXPECT_EQ(parse_duration("0.000000001s").value(), 1ns);
  EXPECT_EQ(parse_duration("9223372036854775806ns").value(), forever - 1ns);
  EXPECT_EQ(parse_duration("forever").value(), forever);
}

TEST(Duration, is_refused_otherwise) {
  for (const auto* text : {"", "5", "s", "-5s", "+5s", "5 s", " 5s", "5s ", "5S", "5d", "1e3s", ".5s", "5.s", "1.2.3s",
                           "5s5", "Forever", "1,5s"}) {
    EXPECT_TRUE(fails_with(invalid, kNotADuration, parse_duration(text))) << text;
  }
  constexpr auto kTooLong = "expected a duration below 292 years, or \"forever\"";
  for (const auto* text : {"9223372036854775807ns", "9223372036854775808ns", "99999999999999999999s", "2562048h",
                           "9223372036.854775807s", "9223372036.9s"}) {
    EXPECT_TRUE(fails_with(invalid, kTooLong, parse_duration(text))) << text;
  }
  for (const auto* text : {"1.5ns", "0.0001us", "0.0000000001s"}) {
    EXPECT_TRUE(fails_with(invalid, "expected a duration of whole nanoseconds", parse_duration(text))) << text;
  }
}

TEST(Duration, is_written_as_it_is_read) {
  EXPECT_EQ(format_duration(0ns), "0s");
  EXPECT_EQ(format_duration(90s), "90s");
  EXPECT_EQ(format_duration(120s), "2m");
  EXPECT_EQ(format_duration(24h), "24h");
  EXPECT_EQ(format_duration(1500ms), "1500ms");
  EXPECT_EQ(format_duration(1001us), "1001us");
  EXPECT_EQ(format_duration(forever), "forever");
  for (const auto duration : {std::chrono::nanoseconds(1), std::chrono::nanoseconds(3h), forever - 1ns, forever}) {
    EXPECT_EQ(parse_duration(format_duration(duration)).value(), duration);
  }
}

// Every block of JSON in the manual's pages.
TEST(Config, the_documented_examples_are_good) {
  const char* root = std::getenv("LOCKR_SOURCE_ROOT");
  ASSERT_NE(root, nullptr) << "run the tests with meson test, or set LOCKR_SOURCE_ROOT";
  for (const char* page : {"/docs/configuration.md", "/backends/file/README.md"}) {
    SCOPED_TRACE(page);
    std::ifstream file(root + std::string(page));
    int examples = 0;
    for (std::string line; std::getline(file, line);) {
      if (line != "```json") continue;
      std::string text;
      while (std::getline(file, line) && line != "```") text += line + '\n';
      const auto config = parsed(text);
      EXPECT_TRUE(config) << config.error().to_string();
      ++examples;
    }
    EXPECT_GT(examples, 0);
  }
}

}  // namespace
}  // namespace lockr
