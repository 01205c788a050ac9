#include "tests/support/redis_server.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <utility>

#include "lockr/releaser.h"

namespace lockr::testing {
namespace {

std::string text_of(const redisReply& reply) {
  switch (reply.type) {
    case REDIS_REPLY_INTEGER:
      return std::to_string(reply.integer);
    case REDIS_REPLY_ERROR:
      return "!" + std::string(reply.str, reply.len);
    case REDIS_REPLY_ARRAY: {
      std::string joined;
      for (std::size_t i = 0; i < reply.elements; ++i) joined += (i > 0 ? "|" : "") + text_of(*reply.element[i]);
      return joined;
    }
    default:
      return reply.str ? std::string(reply.str, reply.len) : "";
  }
}

std::string pem_of(void (*write)(BIO*, const void*), const void* what) {
  const std::unique_ptr<BIO, int (*)(BIO*)> memory(BIO_new(BIO_s_mem()), BIO_free);
  write(memory.get(), what);
  char* data = nullptr;
  const long size = BIO_get_mem_data(memory.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}

void write_certificate(BIO* out, const void* certificate) {
  PEM_write_bio_X509(out, static_cast<const X509*>(certificate));
}

void write_key(BIO* out, const void* key) {
  PEM_write_bio_PrivateKey(out, static_cast<const EVP_PKEY*>(key), nullptr, nullptr, 0, nullptr, nullptr);
}

// A certificate for "localhost" and 127.0.0.1 that vouches for itself, for a day.
void make_certificate(const DaemonDirectory& directory) {
  const std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key(EVP_EC_gen("P-256"), EVP_PKEY_free);
  const std::unique_ptr<X509, void (*)(X509*)> certificate(X509_new(), X509_free);
  X509* const made = certificate.get();
  X509_set_version(made, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(made), 1);
  X509_gmtime_adj(X509_getm_notBefore(made), -3600);
  X509_gmtime_adj(X509_getm_notAfter(made), 86'400);
  X509_set_pubkey(made, key.get());
  const auto* const name = reinterpret_cast<const unsigned char*>("localhost");
  X509_NAME_add_entry_by_txt(X509_get_subject_name(made), "CN", MBSTRING_ASC, name, -1, -1, 0);
  X509_set_issuer_name(made, X509_get_subject_name(made));
  for (const auto& [kind, value] : {std::pair{NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1"},
                                    std::pair{NID_basic_constraints, "critical,CA:TRUE"}}) {
    X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, nullptr, kind, value);
    X509_add_ext(made, extension, -1);
    X509_EXTENSION_free(extension);
  }
  if (X509_sign(made, key.get(), EVP_sha256()) == 0) throw std::runtime_error("no certificate can be made");
  directory.write("server.crt", pem_of(write_certificate, made));
  directory.write("server.key", pem_of(write_key, key.get()));
}

}  // namespace

RedisClient::RedisClient(const std::string& socket) : context_(redisConnectUnix(socket.c_str())) {
  if (context_ && context_->err == 0) return;
  const std::string reason = context_ ? context_->errstr : "out of memory";
  redisFree(context_);
  throw std::runtime_error("can't connect to " + socket + ": " + reason);
}

std::vector<std::string> RedisClient::all(const std::vector<std::string>& command) {
  std::vector<const char*> words;
  std::vector<std::size_t> sizes;
  for (const std::string& word : command) {
    words.push_back(word.data());
    sizes.push_back(word.size());
  }
  void* const got = redisCommandArgv(context_, static_cast<int>(words.size()), words.data(), sizes.data());
  const std::unique_ptr<redisReply, void (*)(void*)> reply(static_cast<redisReply*>(got), freeReplyObject);
  if (!reply) throw std::runtime_error(command.front() + ": " + context_->errstr);
  if (reply->type == REDIS_REPLY_NIL) return {};
  if (reply->type != REDIS_REPLY_ARRAY) return {text_of(*reply)};
  std::vector<std::string> elements;
  for (std::size_t i = 0; i < reply->elements; ++i) elements.push_back(text_of(*reply->element[i]));
  return elements;
}

std::string RedisClient::one(const std::vector<std::string>& command) {
  const auto elements = all(command);
  return elements.empty() ? "" : elements.front();
}

long long RedisClient::info(const std::string& section, const std::string& start) {
  const std::string text = one({"INFO", section});
  const std::size_t at = text.find("\n" + start);
  return at == text.npos ? 0 : std::atoll(text.c_str() + at + 1 + start.size());
}

ServerClock::ServerClock(const std::string& shim) {
  const char* const built = std::getenv("LOCKR_TEST_CLOCK");
  // A copy, because the server's user may not be let into the folder that it was built in.
  std::filesystem::copy_file(shim.empty() && built ? built : shim, directory_ / "shim.so");
  directory_.write("ahead", std::string(sizeof *ahead_, '\0'));
  const Descriptor file(::open((directory_ / "ahead").c_str(), O_RDWR | O_CLOEXEC));
  void* const page = ::mmap(nullptr, sizeof *ahead_, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (page == MAP_FAILED) throw std::runtime_error("the clock's file can't be mapped");
  ahead_ = static_cast<volatile std::int64_t*>(page);
}

ServerClock::~ServerClock() { ::munmap(const_cast<std::int64_t*>(ahead_), sizeof *ahead_); }

void ServerClock::set(std::chrono::nanoseconds ahead) { *ahead_ = ahead.count(); }

std::vector<std::string> ServerClock::command() const {
  return {"env", "LD_PRELOAD=" + (directory_ / "shim.so"), "LOCKR_CLOCK_SHIM=" + (directory_ / "ahead")};
}

RedisServer::RedisServer(std::vector<std::string> settings, std::vector<std::string> prefix, Place place)
    : settings_(std::move(settings)), prefix_(std::move(prefix)), place_(place) {
  make_certificate(directory_);
  start();
}

RedisServer::~RedisServer() {
  try {
    stop();
  } catch (const std::exception&) {  // It is killed.
  }
}

void RedisServer::start() {
  std::vector<std::string> command = prefix_;
  const std::vector<std::string> own{"redis-server",
                                     "--port",
                                     std::to_string(port_.number()),
                                     "--bind",
                                     "127.0.0.1",
                                     "--unixsocket",
                                     socket(),
                                     "--unixsocketperm",
                                     "777",
                                     "--tls-port",
                                     std::to_string(tls_port_.number()),
                                     "--tls-cert-file",
                                     certificate(),
                                     "--tls-key-file",
                                     directory_ / "server.key",
                                     "--tls-ca-cert-file",
                                     certificate(),
                                     "--tls-auth-clients",
                                     "no",
                                     "--dir",
                                     directory_.path(),
                                     "--save",
                                     "",
                                     "--enable-debug-command",
                                     "local"};
  command.insert(command.end(), own.begin(), own.end());
  command.insert(command.end(), settings_.begin(), settings_.end());
  daemon_ = std::make_unique<Daemon>(std::move(command), directory_ / "server.log", place_);
  daemon_->wait_until([this] {
    try {
      RedisClient(socket()).one({"PING"});
      return true;
    } catch (const std::exception&) {
      return false;
    }
  });
}

void RedisServer::stop() {
  if (daemon_) daemon_->stop(SIGTERM);
}

void RedisServer::restart() {
  stop();
  start();
}

std::vector<std::string> RedisServer::leftovers(const std::string& prefix) {
  RedisClient client(socket());
  std::vector<std::string> left;
  for (const std::string& name : client.all({"KEYS", "*"})) {
    if (name.starts_with(prefix) && name != prefix + "token") left.push_back(name);
  }
  return left;
}

}  // namespace lockr::testing
