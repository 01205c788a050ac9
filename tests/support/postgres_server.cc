#include "tests/support/postgres_server.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <utility>

#include "backends/postgres/fencing.h"

namespace lockr::testing {
namespace {

namespace fs = std::filesystem;

bool answers(const std::string& dsn) { return PQping(dsn.c_str()) == PQPING_OK; }

// A cluster that no server has run on yet. initdb makes it once in a build folder, for each version of itself and each
// user who tests, since a copy takes a tenth of its time.
fs::path fresh_cluster() {
  const std::string initdb = postgres_program("initdb");
  const auto version = fs::last_write_time(initdb).time_since_epoch().count();
  const fs::path cluster =
      fs::path(LOCKR_TEST_CLUSTERS) / ("cluster-" + std::to_string(::geteuid()) + "-" + std::to_string(version));
  if (fs::exists(cluster)) return cluster;
  const DaemonDirectory made;
  run_as_daemon({initdb, "--pgdata=" + (made / "data"), "--username=postgres", "--auth=trust", "--no-sync",
                 "--encoding=UTF8", "--locale=C"},
                made / "initdb.log");
  // It gets its name when it is whole. Of programs that make one at once the first is heeded.
  const fs::path mine = cluster.string() + "." + fs::path(made.path()).filename().string();
  fs::copy(made / "data", mine, fs::copy_options::recursive);
  std::error_code there_is_one;
  fs::rename(mine, cluster, there_is_one);
  if (there_is_one) fs::remove_all(mine);
  return cluster;
}

}  // namespace

std::string postgres_program(const std::string& name) {
  std::vector<std::pair<int, std::string>> found;
  std::error_code ignored;
  for (const auto& version : fs::directory_iterator("/usr/lib/postgresql", ignored)) {
    const fs::path program = version.path() / "bin" / name;
    if (::access(program.c_str(), X_OK) == 0) {
      found.emplace_back(std::atoi(version.path().filename().c_str()), program.string());
    }
  }
  if (found.empty()) {
    throw std::runtime_error("PostgreSQL's " + name + " is not in /usr/lib/postgresql; install postgresql-15");
  }
  return std::max_element(found.begin(), found.end())->second;
}

Psql::Psql(const std::string& dsn) : connection_(PQconnectdb(dsn.c_str())) {
  PQsetNoticeProcessor(
      connection_, [](void*, const char*) {}, nullptr);
  if (PQstatus(connection_) == CONNECTION_OK) return;
  const std::string reason = PQerrorMessage(connection_);
  PQfinish(connection_);
  throw std::runtime_error("can't connect: " + reason);
}

std::vector<std::string> Psql::rows(const std::string& sql) {
  const std::unique_ptr<PGresult, void (*)(PGresult*)> result(PQexec(connection_, sql.c_str()), PQclear);
  const ExecStatusType status = PQresultStatus(result.get());
  if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) {
    throw std::runtime_error(sql + ": " + PQerrorMessage(connection_));
  }
  std::vector<std::string> rows;
  for (int row = 0; row < PQntuples(result.get()); ++row) {
    std::string line;
    for (int column = 0; column < PQnfields(result.get()); ++column) {
      if (column > 0) line += '|';
      line += PQgetvalue(result.get(), row, column);
    }
    rows.push_back(std::move(line));
  }
  return rows;
}

std::string Psql::row(const std::string& sql) {
  const std::vector<std::string> all = rows(sql);
  if (all.empty()) throw std::runtime_error(sql + ": no row");
  return all.front();
}

PostgresServer::PostgresServer(std::vector<std::string> settings, Place place)
    : settings_(std::move(settings)), place_(place) {
  directory_.copy_in(fresh_cluster(), "data");
  start();
}

PostgresServer::PostgresServer(const PostgresServer& primary, std::vector<std::string> settings)
    : settings_(std::move(settings)) {
  run_as_daemon(
      {postgres_program("pg_basebackup"), "--pgdata=" + (directory_ / "data"), "--host=" + primary.directory().path(),
       "--port=" + std::to_string(primary.port()), "--username=postgres", "--write-recovery-conf", "--checkpoint=fast",
       "--no-sync", "--wal-method=stream"},
      directory_ / "backup.log");
  start();
}

PostgresServer::~PostgresServer() {
  try {
    stop(false);
  } catch (const std::exception&) {  // It is killed.
  }
}

std::string PostgresServer::dsn(const std::string& user, const std::string& database) const {
  return "host=" + directory_.path() + " port=" + std::to_string(port_.number()) + " user=" + user +
         " dbname=" + database;
}

std::string PostgresServer::tcp_dsn(const std::string& user, const std::string& database) const {
  return "host=127.0.0.1 port=" + std::to_string(port_.number()) + " user=" + user + " dbname=" + database;
}

void PostgresServer::start() {
  std::vector<std::string> command{postgres_program("postgres"),
                                   "-D",
                                   directory_ / "data",
                                   "-c",
                                   "port=" + std::to_string(port_.number()),
                                   "-c",
                                   "unix_socket_directories=" + directory_.path()};
  for (const char* setting : {"listen_addresses=127.0.0.1", "fsync=off", "full_page_writes=off", "autovacuum=off",
                              "shared_buffers=16MB", "max_connections=200"}) {
    command.insert(command.end(), {"-c", setting});
  }
  for (const std::string& setting : settings_) command.insert(command.end(), {"-c", setting});
  daemon_ = std::make_unique<Daemon>(std::move(command), directory_ / "server.log", place_);
  daemon_->wait_until([this] { return answers(dsn()); });
}

void PostgresServer::stop(bool fast) {
  if (daemon_) daemon_->stop(fast ? SIGINT : SIGQUIT);
}

void PostgresServer::restart(bool fast) {
  stop(fast);
  start();
}

void PostgresServer::set_hba(const std::string& text) {
  directory_.write("data/pg_hba.conf", text);
  Psql control(dsn());
  const std::string before = control.row("select pg_conf_load_time()");
  control.row("select pg_reload_conf()");
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (control.row("select pg_conf_load_time()") == before && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

void PostgresServer::terminate_clients() {
  Psql control(dsn());
  const std::string ours = " from pg_stat_activity where application_name like 'lockr/%'";
  const std::string doomed = control.row("select coalesce(string_agg(pid::text, ','), '0')" + ours);
  control.rows("select pg_terminate_backend(pid)" + ours + " and pid in (" + doomed + ")");
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (control.row("select count(*) from pg_stat_activity where pid in (" + doomed + ")") != "0") {
    if (std::chrono::steady_clock::now() >= deadline) throw std::runtime_error("terminated backends do not end");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void PostgresServer::prepare_fencing() { Psql(dsn()).rows(postgres::fencing_sql()); }

std::vector<std::string> PostgresServer::advisory_locks() {
  return Psql(dsn()).rows(
      "select case when granted then 'held: ' else 'waits: ' end || (classid::bigint << 32 | objid::bigint), mode, pid "
      "from pg_locks where locktype = 'advisory'");
}

PgBouncer::PgBouncer(const PostgresServer& server, const std::string& mode, int pool_size) {
  // With auth_type any the server's user is named here.
  directory_.write("pgbouncer.ini",
                   "[databases]\n* = user=postgres host=" + server.directory().path() +
                       " port=" + std::to_string(server.port()) +
                       "\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = " + std::to_string(port_.number()) +
                       "\nunix_socket_dir =\nauth_type = any\npool_mode = " + mode +
                       "\ndefault_pool_size = " + std::to_string(pool_size) + "\n");
  daemon_ = std::make_unique<Daemon>(std::vector<std::string>{"/usr/sbin/pgbouncer", directory_ / "pgbouncer.ini"},
                                     directory_ / "pgbouncer.log");
  daemon_->wait_until([&] { return answers(dsn()); });
}

PgBouncer::~PgBouncer() {
  try {
    daemon_->stop(SIGINT);
  } catch (const std::exception&) {  // It is killed.
  }
}

}  // namespace lockr::testing
