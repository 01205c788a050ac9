// Fault: something that is done to a run. One file each; see README.md.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>

#include "tests/torture/history.h"

namespace lockr::torture {

using Random = std::mt19937_64;

/// What workers are asked to do to themselves while a mood lasts.
enum class Mood : std::uint32_t {
  none = 0,
  impatient = 1,  ///< Every wait times out after 1 ms.
  fickle = 2,     ///< Every wait is cancelled after 0 to 1.5 ms.
  forking = 4,    ///< Holders fork; the child looks at what it inherited, then ends.
};

/// A worker that a fault has to itself: no other fault touches it meanwhile. Gives it back when destroyed.
class Victim {
 public:
  virtual ~Victim() = default;
  virtual int worker() const = 0;
  virtual std::uint16_t incarnation() const = 0;
  virtual pid_t pid() const = 0;
  /// Whether the witness shows it inside of some key now. A guess that is soon wrong.
  virtual bool holding() const = 0;
  /// Whether it is the one that is never killed, so that somebody's memory can be watched for the whole of the run.
  virtual bool spared() const = 0;
  /// Kills it and starts the next incarnation. Writes the fault down.
  virtual void kill() = 0;
};

/// What a fault finds: workers, and the history.
class Scene {
 public:
  virtual ~Scene() = default;
  /// A worker of its own, chosen by `random`, one that holds something if there is one within a moment; nullptr when
  /// all are taken or the run ends.
  virtual std::unique_ptr<Victim> victim(Random& random, bool holder) = 0;
  virtual int workers() const = 0;
  virtual pid_t pid_of(int worker) const = 0;
  /// Every worker is asked for it until `end` is called with none.
  virtual void set_mood(Mood mood, bool on) = 0;
  /// How many cancels, 1 ms timeouts and forks the workers count.
  virtual std::uint64_t count(Mood mood) const = 0;
  /// Sleeps for so long; false at once when the run is over.
  virtual bool sleep(std::chrono::nanoseconds time) = 0;
  /// What only one fault at a time may touch: the engine.
  virtual std::unique_lock<std::mutex> engine() = 0;

  /// Writes a fault down that begins now. Ended by end(), at the latest when the run ends.
  virtual std::size_t begin(const std::string& fault, int effects, int worker = kEveryone,
                            std::uint16_t incarnation = 0) = 0;
  /// It ends now, and its traces are gone `settles` later.
  virtual void end(std::size_t record, std::chrono::nanoseconds settles = std::chrono::nanoseconds(0)) = 0;
};

/// Something that is done to a run, again and again, on a thread of its own.
class Fault {
 public:
  virtual ~Fault() = default;
  virtual std::string name() const = 0;
  /// How many are struck in a second if the run does not say.
  virtual double pace() const = 0;
  /// Why it can't be had on this machine or with this engine; it is then left out, loudly.
  virtual std::optional<std::string> not_possible(Scene&) { return std::nullopt; }
  /// Strikes once; may block for as long as the fault lasts, and looks at what Scene::sleep returns. False: there was
  /// nothing to strike. What is thrown ends the run.
  virtual bool strike(Random& random, Scene& scene) = 0;
};

}  // namespace lockr::torture
