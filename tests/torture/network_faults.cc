#include "tests/torture/network_faults.h"

#include <functional>
#include <string>
#include <utility>

#include "tests/torture/engine_faults.h"

namespace lockr::torture {
namespace {

using namespace std::chrono_literals;
using std::chrono::milliseconds;
using testing::Network;
using testing::Proxy;

/// What is excused where connections may end.
int ends_connections(const Temper& temper) { return kCuts | (temper.bound_to_connections ? kMayLose : 0); }

struct Spell {
  const char* name;
  double pace;
  milliseconds least, most;
  int effects;
  milliseconds settles;
};

/// Something that is turned on for a while.
std::unique_ptr<Fault> spell(const Spell& spell, std::function<void(bool)> turn) {
  return std::make_unique<EngineFault>(
      spell.name, spell.pace, [spell, turn = std::move(turn)](const std::string& name, Random& random, Scene& scene) {
        const auto engine = scene.engine();
        const auto length =
            between(random, static_cast<int>(spell.least.count()), static_cast<int>(spell.most.count()));
        const std::size_t record = scene.begin(name, spell.effects);
        turn(true);
        scene.sleep(length);
        turn(false);
        // What was sent meanwhile is sent again after at most as long as it has been waiting.
        scene.end(record, spell.settles + length);
        return true;
      });
}

/// Hits one connection, whoever it belongs to.
std::unique_ptr<Fault> cut(const char* name, Proxy& proxy, Proxy::Cut how, const Temper& temper) {
  return std::make_unique<EngineFault>(
      name, 5, [&proxy, how, temper](const std::string& fault, Random& random, Scene& scene) {
        const auto engine = scene.engine();
        const std::size_t record = scene.begin(fault, ends_connections(temper) | kDisturbs);
        const bool struck = proxy.cut(how, random());
        // What is to be cut off comes with the next answer, or with none.
        scene.end(record, temper.reply);
        return struck;
      });
}

}  // namespace

std::vector<std::unique_ptr<Fault>> proxy_faults(Proxy& proxy, const Temper& temper) {
  std::vector<std::unique_ptr<Fault>> faults;
  const auto add = [&](const Spell& traits, Proxy::Mood mood, milliseconds delay = 0ms) {
    faults.push_back(spell(
        traits, [&proxy, mood, delay](bool on) { proxy.set(on ? mood : Proxy::Mood::honest, on ? delay : 0ms); }));
  };
  add({"slow", 1, 50ms, 300ms, kDisturbs, 50ms}, Proxy::Mood::slow, 5ms);
  add({"split", 1, 50ms, 300ms, kDisturbs, 50ms}, Proxy::Mood::split);
  add({"silent", 1, 20ms, temper.reply / 2, kDisturbs, 50ms}, Proxy::Mood::silent);
  add({"dead", 0.2, temper.loss, temper.loss + 500ms, kMayLose | kCuts | kDisturbs, temper.reply}, Proxy::Mood::silent);
  faults.push_back(cut("reset", proxy, Proxy::Cut::reset, temper));
  faults.push_back(cut("half_close", proxy, Proxy::Cut::half_close, temper));
  faults.push_back(cut("truncate", proxy, Proxy::Cut::truncate, temper));
  return faults;
}

std::vector<std::unique_ptr<Fault>> packet_faults(const Network& network, const Temper& temper) {
  std::vector<std::unique_ptr<Fault>> faults;
  const int all = kMayLose | kCuts | kDisturbs;
  faults.push_back(
      spell({"packet_loss", 0.5, 200ms, 800ms, all, temper.reply}, [&network](bool on) { network.loss(on ? 15 : 0); }));
  faults.push_back(spell({"blackhole", 0.3, temper.loss, temper.loss + 500ms, all, temper.reply},
                         [&network](bool on) { network.blackhole(on); }));
  faults.push_back(spell({"unplug", 0.1, temper.loss, temper.loss + 500ms, all, temper.reply},
                         [&network](bool on) { network.unplug(on); }));
  return faults;
}

}  // namespace lockr::torture
