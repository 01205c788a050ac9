// What the demo shows, in order. Each scene prints what it sees and tells the screen what it expected.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>

#include "screen.h"

namespace demo {

struct Stage {
  Screen& screen;
  std::filesystem::path folder;  // of the demo's own, removed afterwards; LOCKR_DIR is inside it
  std::string lockr;             // the program
  std::chrono::milliseconds working_time;
};

// Eight processes increment the same counters, and updates are lost.
void without_locks(const Stage& stage);
// The same under lockr, and none is.
void with_locks(const Stage& stage);
// A process is killed while it holds a lock that another one waits for.
void killed_holder(const Stage& stage);
// `lockr run` guards a command, and `lockr who` shows it.
void command_line(const Stage& stage);

}  // namespace demo
