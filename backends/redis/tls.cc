#include "backends/redis/tls.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <array>
#include <utility>

#include "backends/redis/errors.h"

namespace lockr::redis {

struct Tls::Parts {
  std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context{nullptr, SSL_CTX_free};
  std::unique_ptr<SSL, void (*)(SSL*)> ssl{nullptr, SSL_free};
  BIO* incoming = nullptr;  // The SSL's.
  BIO* outgoing = nullptr;
};

namespace {

std::string last_words() {
  std::array<char, 256> text{};
  ERR_error_string_n(ERR_get_error(), text.data(), text.size());
  ERR_clear_error();
  return one_line(text.data());
}

Error unusable(std::string_view field, const std::string& file) {
  return Error(errc::invalid_config, std::string(field) + ": " + file + " can't be used: " + last_words());
}

Status load_files(SSL_CTX* context, const Options& options) {
  if (options.tls_ca.empty()) {
    if (SSL_CTX_set_default_verify_paths(context) != 1) return fail(unusable("tls_ca", "the system's store"));
  } else if (SSL_CTX_load_verify_locations(context, options.tls_ca.c_str(), nullptr) != 1) {
    return fail(unusable("tls_ca", options.tls_ca));
  }
  if (options.tls_certificate.empty()) return {};
  if (SSL_CTX_use_certificate_chain_file(context, options.tls_certificate.c_str()) != 1) {
    return fail(unusable("tls_certificate", options.tls_certificate));
  }
  if (SSL_CTX_use_PrivateKey_file(context, options.tls_key.c_str(), SSL_FILETYPE_PEM) != 1) {
    return fail(unusable("tls_key", options.tls_key));
  }
  return {};
}

bool is_address(const std::string& name) {
  std::array<unsigned char, sizeof(in6_addr)> bytes{};
  return ::inet_pton(AF_INET, name.c_str(), bytes.data()) == 1 ||
         ::inet_pton(AF_INET6, name.c_str(), bytes.data()) == 1;
}

bool expect_name(SSL* ssl, const std::string& name) {
  if (is_address(name)) return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name.c_str()) == 1;
  return SSL_set1_host(ssl, name.c_str()) == 1 && SSL_set_tlsext_host_name(ssl, name.c_str()) == 1;
}

}  // namespace

Tls::Tls(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Tls::~Tls() = default;

Result<std::unique_ptr<Tls>> Tls::make(const Options& options) {
  ERR_clear_error();
  auto parts = std::make_unique<Parts>();
  parts->context.reset(SSL_CTX_new(TLS_client_method()));
  if (!parts->context) return fail(errc::capacity, "TLS can't be set up: " + last_words());
  SSL_CTX_set_min_proto_version(parts->context.get(), TLS1_2_VERSION);
  SSL_CTX_set_verify(parts->context.get(), SSL_VERIFY_PEER, nullptr);
  if (auto loaded = load_files(parts->context.get(), options); !loaded) return fail(loaded.error());
  parts->ssl.reset(SSL_new(parts->context.get()));
  parts->incoming = BIO_new(BIO_s_mem());
  parts->outgoing = BIO_new(BIO_s_mem());
  SSL_set_bio(parts->ssl.get(), parts->incoming, parts->outgoing);
  if (!expect_name(parts->ssl.get(), options.tls_name)) {
    return fail(errc::invalid_config, "tls_name: " + options.tls_name + " can't be the name of a server");
  }
  SSL_set_connect_state(parts->ssl.get());
  return std::unique_ptr<Tls>(new Tls(std::move(parts)));
}

Result<bool> Tls::handshake() {
  ERR_clear_error();
  const int done = SSL_do_handshake(parts_->ssl.get());
  if (done == 1) return true;
  if (SSL_get_error(parts_->ssl.get(), done) == SSL_ERROR_WANT_READ) return false;
  const long verdict = SSL_get_verify_result(parts_->ssl.get());
  if (verdict != X509_V_OK) {
    return fail(Error(errc::access_denied, std::string("the server's certificate is not accepted: ") +
                                               X509_verify_cert_error_string(verdict) +
                                               "; check tls_ca, tls_name and the certificate")
                    .with_native("X509 " + std::to_string(verdict)));
  }
  return fail(errc::connection_lost, "TLS can't be agreed on with the server: " + last_words());
}

void Tls::arrived(std::string_view bytes) { BIO_write(parts_->incoming, bytes.data(), static_cast<int>(bytes.size())); }

bool Tls::read(std::string& plain) {
  ERR_clear_error();
  std::array<char, 16384> part;
  for (;;) {
    const int got = SSL_read(parts_->ssl.get(), part.data(), static_cast<int>(part.size()));
    if (got > 0) {
      plain.append(part.data(), static_cast<std::size_t>(got));
      continue;
    }
    return SSL_get_error(parts_->ssl.get(), got) == SSL_ERROR_WANT_READ;
  }
}

bool Tls::write(std::string_view plain) {
  ERR_clear_error();
  return plain.empty() || SSL_write(parts_->ssl.get(), plain.data(), static_cast<int>(plain.size())) > 0;
}

void Tls::take_outgoing(std::string& bytes) {
  std::array<char, 16384> part;
  for (;;) {
    const int got = BIO_read(parts_->outgoing, part.data(), static_cast<int>(part.size()));
    if (got <= 0) return;
    bytes.append(part.data(), static_cast<std::size_t>(got));
  }
}

}  // namespace lockr::redis
