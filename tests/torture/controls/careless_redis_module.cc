// The module "careless_redis": SET NX PX with a lease that is shorter than the work, and DEL without a look at whose
// the lock is by then.
#include <hiredis/hiredis.h>

#include <chrono>
#include <memory>
#include <string>

#include "lockr/spi/module.h"
#include "lockr/spi/polling.h"

namespace {

using namespace lockr;
using namespace lockr::spi;

Traits redis_traits() {
  Traits traits;
  traits.capabilities = {
      .backend = "careless_redis", .cross_process = true, .takeover = std::chrono::milliseconds(100)};
  traits.identity_is_hash = true;
  return traits;
}

class CarelessRedis final : public PollingBackend {
 public:
  CarelessRedis(Runtime& runtime, std::string socket)
      : PollingBackend(runtime, redis_traits(), {.poll_interval = std::chrono::milliseconds(1)}),
        socket_(std::move(socket)) {}
  ~CarelessRedis() override { redisFree(context_); }

 private:
  Status connect(Time /*until*/) override {
    context_ = redisConnectUnix(socket_.c_str());
    if (!context_ || context_->err != 0) return fail(Error(errc::connection_lost, "no connection"));
    return {};
  }
  void disconnect() override {
    redisFree(context_);
    context_ = nullptr;
  }
  void take(std::span<Request* const> batch) override {
    for (Request* request : batch) {
      request->answer = ask("SET careless:" + name_of(*request) + " us NX PX 3") ? Answer::granted : Answer::refused;
    }
  }
  void give_back(std::span<Request* const> batch) override {
    for (Request* request : batch) {
      ask("DEL careless:" + name_of(*request));
      request->answer = Answer::released;
    }
  }
  Status renew(std::span<Held> /*batch*/) override { return {}; }

  static std::string name_of(const Request& request) { return std::to_string(request.identity); }
  /// Whether there is an answer but nil.
  bool ask(const std::string& command) {
    const std::unique_ptr<redisReply, void (*)(void*)> reply(
        static_cast<redisReply*>(redisCommand(context_, command.c_str())), freeReplyObject);
    return reply && reply->type != REDIS_REPLY_NIL && reply->type != REDIS_REPLY_ERROR;
  }

  const std::string socket_;
  redisContext* context_ = nullptr;
};

Result<std::unique_ptr<Backend>> create(const OpenContext& context) {
  if (auto known = context.section.allow_only({"socket"}); !known) return fail(known.error());
  const auto socket = context.section.string("socket");
  if (!socket) return fail(socket.error());
  if (!*socket) return fail(context.section.invalid("socket", "a path"));
  return std::make_unique<CarelessRedis>(context.runtime, **socket);
}

const BackendInfo kCarelessRedis{
    .name = "careless_redis",
    .schemes = nullptr,
    .summary = "leases that are too short",
    .schema = R"({"type": "object"})",
    .create = create,
};

}  // namespace

LOCKR_MODULE(kCarelessRedis);
