// Which files are loaded as modules, and which are refused.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "tests/modules/test_modules.h"
#include "tests/unit/fails_with.h"

namespace lockr {
namespace {

namespace fs = std::filesystem;

class Modules : public ::testing::Test {
 protected:
  Modules() {
    if (!::mkdtemp(folder_.data())) std::abort();
  }
  ~Modules() override { fs::remove_all(folder_); }

  std::string here(const std::string& name) const { return folder_ + "/" + name; }
  std::string copied(const std::string& name = "thrower") const {
    fs::copy_file(built(name), here(name + ".so"));
    return here(name + ".so");
  }

  /// The refusal, of open() and check() of a config and of load(), is this sentence after the module's name.
  ::testing::AssertionResult refused(errc code, const std::string& path, const std::string& sentence) {
    const std::string message = "the module \"" + path + "\" " + sentence;
    const LockerConfig config = thrower_config(path);
    if (auto opened = fails_with(code, "/plugin: " + message, open(config)); !opened) return opened;
    if (auto checked = fails_with(code, "/plugin: " + message, Registry().check(config)); !checked) return checked;
    return fails_with(code, message, Registry().load(path));
  }

  std::string folder_ = (fs::temp_directory_path() / "lockr-modules-XXXXXX").string();
};

TEST_F(Modules, a_module_is_loaded_and_opened) {
  const auto locker = open(thrower_config(built("thrower")));
  ASSERT_TRUE(locker) << locker.error().to_string();
  EXPECT_EQ((*locker)->capabilities().backend, "thrower");
  const auto held = (*locker)->lock({"a"});
  ASSERT_TRUE(held);
  EXPECT_EQ((*locker)->try_lock({"a"}).error().code(), errc::not_acquired);
}

TEST_F(Modules, a_module_stands_for_its_backend_in_one_call_alone) {
  EXPECT_TRUE(open(thrower_config(built("thrower"))));
  EXPECT_EQ(open(LockerConfig::from_json(R"({"backend": "thrower"})").value()).error().code(), errc::unknown_backend);
}

TEST_F(Modules, a_registry_keeps_what_it_loaded) {
  Registry registry;
  ASSERT_TRUE(registry.load(built("thrower")));
  EXPECT_EQ(registry.names(), std::vector<std::string>{"thrower"});
  EXPECT_TRUE(registry.open(LockerConfig::from_json(R"({"backend": "thrower"})").value()));
  EXPECT_TRUE(registry.open(thrower_config(built("thrower")))) << "the same module again";
}

TEST_F(Modules, a_path_must_be_absolute) {
  EXPECT_TRUE(fails_with(errc::invalid_config, "/plugin: expected the absolute path of a module",
                         LockerConfig::from_json(R"({"backend": "thrower", "plugin": "thrower.so"})")));
  EXPECT_TRUE(fails_with(errc::invalid_config, "the module \"thrower.so\" is not named by an absolute path",
                         Registry().load("thrower.so")));
  EXPECT_EQ(Registry().load("").error().code(), errc::invalid_config);
}

TEST_F(Modules, a_file_that_is_missing_is_refused) {
  EXPECT_TRUE(
      refused(errc::invalid_config, here("none.so"), "does not exist: there is no \"" + here("none.so") + "\""));
  EXPECT_TRUE(refused(errc::invalid_config, here("none/x.so"), "does not exist: there is no \"" + here("none") + "\""));
  const std::string path = copied() + "/x.so";
  EXPECT_TRUE(refused(errc::invalid_config, path, "does not exist: there is no \"" + path + "\""));
}

TEST_F(Modules, a_directory_is_refused) {
  EXPECT_TRUE(refused(errc::invalid_config, folder_, "is a directory; name the file in it"));
  EXPECT_TRUE(refused(errc::invalid_config, "/", "is a directory; name the file in it"));
}

TEST_F(Modules, a_pipe_is_refused) {
  ASSERT_EQ(::mkfifo(here("pipe.so").c_str(), 0600), 0);
  EXPECT_TRUE(refused(errc::invalid_config, here("pipe.so"), "is not a regular file"));
}

TEST_F(Modules, a_file_that_was_cut_off_is_refused) {
  const std::string path = copied();
  const auto whole = fs::file_size(path);
  for (const auto size :
       {whole / 2, std::uintmax_t{4096}, std::uintmax_t{100}, std::uintmax_t{63}, std::uintmax_t{4}}) {
    fs::resize_file(path, size);
    EXPECT_TRUE(refused(errc::incompatible_plugin, path, "is truncated; copy or build it again")) << size;
  }
}

TEST_F(Modules, what_is_no_shared_object_is_refused) {
  std::ofstream(here("text.so"))
      << "#!/bin/sh\necho a script that is longer than the header of an ELF file: 64 bytes\n";
  EXPECT_TRUE(refused(errc::incompatible_plugin, here("text.so"), "is not a shared object (ELF)"));
  std::ofstream(here("empty.so")) << "";
  EXPECT_TRUE(refused(errc::incompatible_plugin, here("empty.so"), "is not a shared object (ELF)"));
}

TEST_F(Modules, one_for_another_machine_is_refused) {
  const std::string path = copied();
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(18);  // e_machine
  file.put('\x02');
  file.close();
  EXPECT_TRUE(refused(errc::incompatible_plugin, path, "was built for another kind of machine"));
}

TEST_F(Modules, one_that_needs_a_missing_symbol_is_refused) {
  const std::string path = built("needy");
  EXPECT_TRUE(
      refused(errc::incompatible_plugin, path, "can't be linked; a library or a symbol that it needs is missing"));
  const auto loaded = Registry().load(path);
  EXPECT_NE(loaded.error().native().find("lockr_that_nobody_has"), std::string_view::npos) << loaded.error().native();
}

TEST_F(Modules, a_shared_object_without_the_symbol_is_refused) {
  EXPECT_TRUE(
      refused(errc::incompatible_plugin, built("plain"), "is not a module of lockr: it has no symbol lockr_module"));
}

TEST_F(Modules, one_of_another_version_is_refused_with_both_versions) {
  for (const auto& [module, version] : {std::pair{"old", "0"}, std::pair{"previous", "1"}}) {
    EXPECT_TRUE(refused(errc::incompatible_plugin, built(module),
                        std::string("was built for version ") + version +
                            " of lockr's plugin interface, this library has version 2; build it again with these "
                            "headers"));
  }
}

TEST_F(Modules, one_of_another_standard_library_is_refused) {
  EXPECT_TRUE(refused(errc::incompatible_plugin, built("other_layout"),
                      "was built with another C++ standard library, or with options that change its types; build it "
                      "again as this library was"));
}

TEST_F(Modules, one_without_a_backend_is_refused) {
  EXPECT_TRUE(refused(errc::incompatible_plugin, built("hollow"), "has no backend in it"));
}

TEST_F(Modules, one_without_a_factory_is_refused) {
  EXPECT_TRUE(refused(errc::incompatible_plugin, built("lazy"), "has a backend without a factory, summary or schema"));
}

TEST_F(Modules, a_factory_that_makes_nothing_is_refused) {
  EXPECT_TRUE(fails_with(errc::incompatible_plugin, "the backend \"thrower\" made nothing to open",
                         Registry().open(thrower_config(built("twin")))));
}

TEST_F(Modules, two_backends_of_one_name_are_refused) {
  constexpr auto kMessage =
      "the backend \"thrower\" can't be added: \"thrower\" already stands for the backend \"thrower\"";
  Registry registry;
  ASSERT_TRUE(registry.load(built("thrower")));
  EXPECT_TRUE(fails_with(errc::invalid_config, kMessage, registry.load(built("twin"))));
  EXPECT_TRUE(fails_with(errc::invalid_config, std::string("/plugin: ") + kMessage,
                         registry.open(thrower_config(built("twin")))));
}

TEST_F(Modules, a_module_that_is_named_twice_is_refused) {
  const std::string path = built("thrower");
  Registry registry;
  ASSERT_TRUE(registry.load(path));
  EXPECT_TRUE(fails_with(errc::invalid_config,
                         "the module \"" + path + "\" is named twice: its backend \"thrower\" was added before",
                         registry.load(path)));
  EXPECT_EQ(registry.names().size(), 1u);
  EXPECT_EQ(LockerConfig::from_json(R"({"backend": "a", "plugin": "/x.so", "plugin": "/x.so"})").error().code(),
            errc::invalid_config);
}

TEST_F(Modules, the_config_names_the_backend_of_its_module) {
  const std::string path = built("thrower");
  const auto config = LockerConfig::from_json(R"({"backend": "memory", "plugin": ")" + path + "\"}").value();
  EXPECT_TRUE(fails_with(
      errc::invalid_config,
      "/plugin: the module \"" + path + "\" has the backend \"thrower\", where the config's \"backend\" is \"memory\"",
      open(config)));
}

// ---- trust

TEST_F(Modules, a_file_that_everybody_can_write_is_refused) {
  const std::string path = copied();
  fs::permissions(path, fs::perms(0666));
  EXPECT_TRUE(refused(errc::unsafe_setup, path,
                      "is not loaded: \"" + path + "\" is writable by every user; use chmod o-w on it"));
  fs::permissions(path, fs::perms(0664));
  EXPECT_TRUE(Registry().load(path)) << "a group is trusted";
}

TEST_F(Modules, a_directory_on_the_way_that_everybody_can_write_is_refused) {
  fs::create_directories(here("open/inner"));
  fs::copy_file(built("thrower"), here("open/inner/x.so"));
  fs::permissions(here("open"), fs::perms(0777));
  EXPECT_TRUE(refused(errc::unsafe_setup, here("open/inner/x.so"),
                      "is not loaded: \"" + here("open") + "\" is writable by every user; use chmod o-w on it"));
  fs::permissions(here("open"), fs::perms(01777));
  EXPECT_TRUE(Registry().load(here("open/inner/x.so"))) << "like /tmp: what is ours in it stays ours";
}

TEST_F(Modules, a_directory_like_tmp_may_not_hold_the_module_itself) {
  const std::string path = copied();
  fs::permissions(folder_, fs::perms(01777));
  EXPECT_TRUE(refused(errc::unsafe_setup, path,
                      "is not loaded: \"" + folder_ +
                          "\" is writable by every user, who could put other libraries beside it; move it elsewhere"));
}

TEST_F(Modules, links_are_followed_and_looked_at) {
  fs::create_directories(here("real"));
  fs::create_directories(here("open"));
  fs::permissions(here("open"), fs::perms(0777));
  fs::copy_file(built("thrower"), here("real/x.so"));
  fs::create_symlink("../real/x.so", here("open/link.so"));
  fs::create_symlink("real/x.so", here("good.so"));
  fs::create_symlink(here("open"), here("way"));
  fs::create_symlink("loop.so", here("loop.so"));
  EXPECT_TRUE(Registry().load(here("good.so")));
  EXPECT_TRUE(Registry().load(here("real/../good.so")));
  EXPECT_TRUE(refused(errc::unsafe_setup, here("way/link.so"),
                      "is not loaded: \"" + here("open") + "\" is writable by every user; use chmod o-w on it"));
  EXPECT_TRUE(refused(errc::invalid_config, here("loop.so"),
                      "can't be found: its symbolic links lead round in a circle or are too many"));
}

TEST_F(Modules, a_link_in_a_directory_like_tmp_may_not_stand_for_the_module) {
  fs::create_directories(here("real"));
  fs::create_directories(here("tmp"));
  fs::permissions(here("tmp"), fs::perms(01777));
  fs::copy_file(built("thrower"), here("real/x.so"));
  fs::create_symlink("../real/x.so", here("tmp/link.so"));
  fs::create_directory_symlink("../real", here("tmp/real"));
  EXPECT_TRUE(refused(errc::unsafe_setup, here("tmp/link.so"),
                      "is not loaded: \"" + here("tmp") +
                          "\" is writable by every user, who could put other libraries beside it; move it elsewhere"));
  EXPECT_TRUE(Registry().load(here("tmp/real/x.so")));
}

TEST_F(Modules, a_link_that_does_not_lead_where_it_says_is_refused) {
  const std::string path = copied();
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(file, 0);
  fs::rename(path, here("moved.so"));
  fs::copy_file(built("twin"), here("moved.so (deleted)"));
  fs::remove(here("moved.so"));
  const std::string magic = "/proc/self/fd/" + std::to_string(file);
  EXPECT_TRUE(refused(errc::unsafe_setup, magic,
                      "is not loaded: the file that opens is not the one that its links name; name the file itself"));
  ::close(file);
}

TEST_F(Modules, a_path_that_no_file_can_have_is_refused) {
  EXPECT_TRUE(refused(errc::invalid_config, here(std::string(300, 'x')), "can't be found: the path is too long"));
  const std::string path = copied() + std::string(1, '\0') + "x";
  EXPECT_TRUE(fails_with(errc::invalid_config, "the module \"" + copied("twin") + "\\x00x\" has a NUL byte in its path",
                         Registry().load(here("twin.so") + path.substr(path.size() - 2))));
}

// A loader would take $LIB and $ORIGIN for other folders than the one that was looked at.
TEST_F(Modules, a_path_that_a_loader_would_expand_is_refused) {
  fs::create_directories(here("$LIB"));
  fs::copy_file(built("thrower"), here("$LIB/x.so"));
  EXPECT_TRUE(
      refused(errc::invalid_config, here("$LIB/x.so"), "has a $ in its path, which a loader would expand; rename it"));
}

TEST_F(Modules, what_this_user_may_not_read_is_refused) {
  const std::string path = copied();
  fs::permissions(folder_, fs::perms(0711));
  fs::permissions(path, fs::perms(0));
  if (::geteuid() == 0) {  // Root reads everything; another user's process does not.
    EXPECT_EXIT(
        {
          if (::seteuid(65534) != 0) std::_Exit(2);
          std::_Exit(Registry().load(path).error().code() == errc::access_denied ? 0 : 1);
        },
        ::testing::ExitedWithCode(0), "");
  } else {
    EXPECT_TRUE(refused(errc::access_denied, path, "can't be opened: this user has no access to \"" + path + "\""));
  }
}

TEST_F(Modules, without_descriptors_none_is_loaded) {
  const std::string path = copied();
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto loaded = Registry().load(path);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_TRUE(fails_with(
      errc::capacity, "the module \"" + path + "\" can't be opened: no descriptors left; raise `ulimit -n`", loaded));
}

TEST_F(Modules, one_with_the_name_of_a_backend_of_the_library_is_refused) {
  EXPECT_TRUE(fails_with(errc::invalid_config,
                         "the backend \"memory\" can't be added: \"memory\" already stands for the backend \"memory\"",
                         Registry::builtin().load(built("impostor"))));
}

TEST_F(Modules, what_belongs_to_somebody_else_is_refused) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to give files away";
  constexpr uid_t kNobody = 65534;
  const std::string sentence = " belongs to user 65534, who could replace it; it must belong to root or to this user";
  const std::string path = copied();
  ASSERT_EQ(::chown(path.c_str(), kNobody, kNobody), 0);
  EXPECT_TRUE(refused(errc::unsafe_setup, path, "is not loaded: \"" + path + "\"" + sentence));
  ASSERT_EQ(::chown(path.c_str(), 0, 0), 0);
  fs::create_symlink("thrower.so", here("link.so"));
  ASSERT_EQ(::lchown(here("link.so").c_str(), kNobody, kNobody), 0);
  EXPECT_TRUE(refused(errc::unsafe_setup, here("link.so"), "is not loaded: \"" + here("link.so") + "\"" + sentence));
  ASSERT_EQ(::chown(folder_.c_str(), kNobody, kNobody), 0);
  EXPECT_TRUE(refused(errc::unsafe_setup, path, "is not loaded: \"" + folder_ + "\"" + sentence));
}

}  // namespace
}  // namespace lockr
