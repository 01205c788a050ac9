#include "backends/redis/ear.h"

#include <utility>

#include "backends/redis/errors.h"

namespace lockr::redis {

Status Ear::attach(std::shared_ptr<Connection> connection, const std::string& channel, const Patience& patience) {
  auto reply = connection->ask({"SUBSCRIBE", channel}, patience);
  if (!reply) return fail(reply.error());
  if ((*reply)->type == REDIS_REPLY_ERROR) {
    return fail(from_reply("can't hear of locks that become free", text_of(**reply)));
  }
  const std::lock_guard lock(mutex_);
  connection_ = std::move(connection);
  return {};
}

void Ear::close() noexcept {
  const std::lock_guard lock(mutex_);
  if (connection_) connection_->shut_down();
  connection_.reset();
}

std::shared_ptr<Connection> Ear::connection() const {
  const std::lock_guard lock(mutex_);
  return connection_;
}

// ["message", channel, what was published]
void Ear::receive() {
  const std::shared_ptr<Connection> connection = this->connection();
  if (!connection) return;
  bool alive = connection->receive(false);
  for (;;) {
    bool broken = false;
    const Reply reply = connection->next(broken);
    alive = alive && !broken;
    if (!reply) break;
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 3) continue;
    if (text_of(*reply->element[0]) == "message") heard_(text_of(*reply->element[2]));
  }
  if (alive) return;
  close();
  went_down_();
}

}  // namespace lockr::redis
