#include "backends/redis/connection.h"

#include <utility>

#include "backends/redis/errors.h"

namespace lockr::redis {

namespace {

// Far beyond what we ask for: who sends more does not answer us, and shall not have our memory.
constexpr std::size_t kMostElements = 100'000;
constexpr std::size_t kMostBytes = std::size_t{16} << 20;

const redisReplyObjectFunctions& hiredis_functions() {
  static const redisReplyObjectFunctions functions = [] {
    const std::unique_ptr<redisReader, void (*)(redisReader*)> reader(redisReaderCreate(), redisReaderFree);
    return *reader->fn;
  }();
  return functions;
}

// An array is made when its size is read, before the first of its elements.
redisReplyObjectFunctions* limited_functions() {
  static redisReplyObjectFunctions functions = [] {
    redisReplyObjectFunctions limited = hiredis_functions();
    limited.createArray = [](const redisReadTask* task, auto size) -> void* {
      return static_cast<std::size_t>(size) > kMostElements ? nullptr : hiredis_functions().createArray(task, size);
    };
    return limited;
  }();
  return &functions;
}

}  // namespace

Connection::Connection(std::unique_ptr<Stream> stream)
    : stream_(std::move(stream)), reader_(redisReaderCreate(), redisReaderFree) {
  reader_->fn = limited_functions();
}

bool Connection::receive(bool block) {
  arrived_.clear();
  const Stream::Got got = stream_->receive(arrived_, block);
  // What came before the end counts.
  if (!arrived_.empty() && redisReaderFeed(reader_.get(), arrived_.data(), arrived_.size()) != REDIS_OK) return false;
  return got != Stream::Got::end && reader_->len - reader_->pos <= kMostBytes;
}

Reply Connection::next(bool& broken) {
  void* reply = nullptr;
  broken = redisReaderGetReply(reader_.get(), &reply) != REDIS_OK;
  return {static_cast<redisReply*>(reply), freeReplyObject};
}

Result<Reply> Connection::ask(const Arguments& command, const Patience& patience) {
  std::string bytes;
  command.write(bytes, {});
  if (!send(bytes)) return fail(connection_ended("it broke while a command was sent"));
  for (;;) {
    bool broken = false;
    Reply reply = next(broken);
    if (broken) return fail(connection_ended("what the other side sends is not the protocol of Redis"));
    if (reply) return reply;
    if (!wait(patience)) {
      return fail(errc::connection_lost, "Redis accepted the connection and did not answer in time");
    }
    if (!flush() || !receive(false)) return fail(connection_ended("the server closed it"));
  }
}

}  // namespace lockr::redis
