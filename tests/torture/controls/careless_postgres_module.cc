// The module "careless_postgres": pg_advisory_lock under a short lock_timeout, whose error is taken for "not held". In
// some of the races with the grant the server reports the timeout and the session keeps the lock.
#include <libpq-fe.h>

#include <chrono>
#include <memory>
#include <string>

#include "lockr/spi/module.h"
#include "lockr/spi/polling.h"

namespace {

using namespace lockr;
using namespace lockr::spi;

Traits postgres_traits() {
  Traits traits;
  traits.capabilities = {
      .backend = "careless_postgres", .cross_process = true, .takeover = std::chrono::milliseconds(500)};
  traits.identity_is_hash = true;
  return traits;
}

class CarelessPostgres final : public PollingBackend {
 public:
  CarelessPostgres(Runtime& runtime, std::string dsn)
      : PollingBackend(runtime, postgres_traits(), {.poll_interval = std::chrono::milliseconds(1)}),
        dsn_(std::move(dsn)) {}
  ~CarelessPostgres() override { PQfinish(connection_); }

 private:
  Status connect(Time /*until*/) override {
    connection_ = PQconnectdb(dsn_.c_str());
    PQsetNoticeProcessor(
        connection_, [](void*, const char*) {}, nullptr);
    if (!says("set lock_timeout = '1ms'")) return fail(Error(errc::connection_lost, "no connection"));
    return {};
  }
  void disconnect() override {
    PQfinish(connection_);
    connection_ = nullptr;
  }
  void take(std::span<Request* const> batch) override {
    for (Request* request : batch) {
      request->answer = says("select pg_advisory_lock(" + name_of(*request) + ")") ? Answer::granted : Answer::refused;
    }
  }
  void give_back(std::span<Request* const> batch) override {
    for (Request* request : batch) {
      says("select pg_advisory_unlock(" + name_of(*request) + ")");
      request->answer = Answer::released;
    }
  }
  Status renew(std::span<Held> /*batch*/) override { return {}; }

  static std::string name_of(const Request& request) {
    return std::to_string(static_cast<std::int64_t>(request.identity));
  }
  bool says(const std::string& sql) {
    const std::unique_ptr<PGresult, void (*)(PGresult*)> result(PQexec(connection_, sql.c_str()), PQclear);
    const ExecStatusType status = PQresultStatus(result.get());
    return status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK;
  }

  const std::string dsn_;
  PGconn* connection_ = nullptr;
};

Result<std::unique_ptr<Backend>> create(const OpenContext& context) {
  if (auto known = context.section.allow_only({"dsn"}); !known) return fail(known.error());
  const auto dsn = context.section.string("dsn");
  if (!dsn) return fail(dsn.error());
  if (!*dsn) return fail(context.section.invalid("dsn", "how to connect"));
  return std::make_unique<CarelessPostgres>(context.runtime, **dsn);
}

const BackendInfo kCarelessPostgres{
    .name = "careless_postgres",
    .schemes = nullptr,
    .summary = "advisory locks, leaked",
    .schema = R"({"type": "object"})",
    .create = create,
};

}  // namespace

LOCKR_MODULE(kCarelessPostgres);
