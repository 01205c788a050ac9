// A backend in memory that throws where its section says: {"throw_in": "submit", "lanes": true}. Calls of an open
// backend throw once the key "boom" has been asked for.
#include <atomic>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "lockr/spi/module.h"

namespace {

using namespace lockr::spi;
using lockr::Descriptor;
using lockr::Holder;
using lockr::Key;
using lockr::Result;
using lockr::Status;

// The engine: who holds what, of all lockers in this process.
std::mutex engine_mutex;
std::map<std::string, const void*> engine;

class Thrower final : public Backend {
 public:
  Thrower(Runtime& runtime, std::string throw_in, bool lanes) : runtime_(runtime), throw_in_(std::move(throw_in)) {
    traits_.capabilities = {.backend = "thrower", .cross_process = true};
    traits_.lanes = lanes ? 1 : 0;
  }

  Status open(Sink& sink, Time /*until*/) override {
    sink_ = &sink;
    if (throw_in_ == "open") throw std::runtime_error("boom in open");
    return {};
  }
  const Traits& traits() const noexcept override { return traits_; }

  void submit(std::uint16_t /*link*/, std::span<Request* const> batch) override {
    for (const Request* request : batch) {
      if (request->key->string() == "boom") armed_ = true;
    }
    throw_if("submit");
    if (traits_.lanes == 0) return answer(batch);
    sent_.insert(sent_.end(), batch.begin(), batch.end());
  }
  bool collect(std::uint16_t /*link*/, Time /*until*/) override {
    throw_if("collect");
    const std::vector<Request*> batch = std::exchange(sent_, {});
    answer(batch);
    return true;
  }

  bool start_wait(Request& request) override {
    throw_if("start_wait");
    return throw_in_ == "stop_wait" && (waiting_ = &request);
  }
  void stop_wait(Request& request) override {
    throw_if("stop_wait");
    if (waiting_ != &request) return;
    request.answer = Answer::refused;
    sink_->done(*std::exchange(waiting_, nullptr));
  }
  bool wanted_elsewhere(std::uint64_t /*identity*/) override {
    throw_if("wanted_elsewhere");
    return true;
  }

  void pump(Time until) override {
    const std::uint32_t seen = bell_.load();
    throw_if("pump");
    if (woken_.exchange(false)) return;
    runtime_.park(bell_, seen, until);
  }
  void wake() override {
    throw_if("wake_at_once");
    woken_ = true;
    bell_.fetch_add(1);
    runtime_.wake(&bell_);
    throw_if("wake");
  }

  Result<std::vector<Holder>> inspect(const Key* /*key*/, Time /*until*/) override {
    throw_if("inspect");
    return std::vector<Holder>();
  }
  Result<std::vector<Descriptor>> descriptors(Seat /*seat*/, const Key& /*key*/) override {
    throw_if("descriptors");
    return std::vector<Descriptor>();
  }

  void close(Time /*until*/) override {
    std::lock_guard lock(engine_mutex);
    std::erase_if(engine, [this](const auto& row) { return row.second == this; });
    throw_if("close");
  }
  void forked() noexcept override {}

 private:
  void throw_if(const char* call) {
    if (!armed_ || throw_in_ != call) return;
    if (throw_in_ == "collect") throw 42;  // Whatever can be thrown.
    throw std::runtime_error(std::string("boom in ") + call);
  }

  void answer(std::span<Request* const> batch) {
    for (Request* request : batch) {
      {
        std::lock_guard lock(engine_mutex);
        answer(*request, engine[std::string(request->key->string())]);
      }
      sink_->done(*request);
    }
  }

  void answer(Request& request, const void*& holder) {
    if (request.op != Op::take) {
      holder = nullptr;
      request.answer = request.op == Op::give_back ? Answer::released : Answer::refused;
      return;
    }
    request.answer = holder ? Answer::refused : Answer::granted;
    request.seat = {.link = 0, .life = 1};
    if (!holder) holder = this;
  }

  Runtime& runtime_;
  const std::string throw_in_;
  Traits traits_;
  Sink* sink_ = nullptr;
  std::atomic<bool> armed_{false};
  std::vector<Request*> sent_;
  Request* waiting_ = nullptr;
  std::atomic<std::uint32_t> bell_{0};
  std::atomic<bool> woken_{false};
};

Result<std::unique_ptr<Backend>> create(const OpenContext& context) {
  const std::string throw_in = context.section.string("throw_in").value().value_or("nothing");
  if (throw_in == "create") throw std::runtime_error("boom in create");
  const bool lanes = context.section.boolean("lanes").value().value_or(false);
  return std::make_unique<Thrower>(context.runtime, throw_in, lanes);
}

const BackendInfo kThrower{.name = "thrower", .schemes = nullptr, .summary = "", .schema = "{}", .create = create};

}  // namespace

LOCKR_MODULE(kThrower);
