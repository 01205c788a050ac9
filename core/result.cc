#include "lockr/result.h"

#include <utility>

namespace lockr {
namespace {

struct CodeText {
  const char* name;
  const char* sentence;
};

CodeText text_of(errc code) noexcept {
  switch (code) {
    case errc::not_acquired:
      return {"not_acquired", "somebody else holds the key; try again later, or wait with a timeout"};
    case errc::timeout:
      return {"timeout", "the key stayed taken until the timeout passed; nothing was acquired"};
    case errc::cancelled:
      return {"cancelled", "the wait was cancelled; nothing is held"};
    case errc::not_released:
      return {"not_released", "the engine says that we did not hold the lock that was given back"};
    case errc::session_closed:
      return {"session_closed", "the session or its locker was closed; open a new one"};
    case errc::session_busy:
      return {"session_busy", "the session's connection is waiting for another thread's lock; try again"};
    case errc::connection_lost:
      return {"connection_lost", "the engine can't be reached; try again when it can"};
    case errc::lock_lost:
      return {"lock_lost", "the lock was lost before it was released; check what was done under it"};
    case errc::deadlock:
      return {"deadlock", "waiting for the key would never end; release what is held and start over"};
    case errc::capacity:
      return {"capacity", "a limit is reached; release something or raise the limit"};
    case errc::unsupported:
      return {"unsupported", "this backend can't do that"};
    case errc::unsafe_setup:
      return {"unsafe_setup", "the engine is set up so that two holders could get the same lock"};
    case errc::forked_process:
      return {"forked_process", "the object belongs to the parent process; open a locker after fork()"};
    case errc::invalid_key:
      return {"invalid_key", "the key is empty or was moved from; make one of one or more scopes"};
    case errc::invalid_config:
      return {"invalid_config", "the configuration is wrong"};
    case errc::unknown_backend:
      return {"unknown_backend", "there is no backend of that name"};
    case errc::incompatible_plugin:
      return {"incompatible_plugin", "the backend was built for another version of lockr's plugin interface"};
    case errc::access_denied:
      return {"access_denied", "access was denied; check the permissions of this user"};
    case errc::backend_failure:
      return {"backend_failure", "the engine reported a failure"};
  }
  return {"unknown", "not an error code of lockr"};
}

bool retryable_by_default(errc code) noexcept {
  switch (code) {
    case errc::not_acquired:
    case errc::timeout:
    case errc::session_busy:
    case errc::connection_lost:
    case errc::capacity:
      return true;
    default:
      return false;
  }
}

class Category final : public std::error_category {
 public:
  const char* name() const noexcept override { return "lockr"; }

  std::string message(int code) const override { return text_of(static_cast<errc>(code)).sentence; }

  std::error_condition default_error_condition(int code) const noexcept override {
    switch (static_cast<errc>(code)) {
      case errc::timeout:
        return std::make_error_condition(std::errc::timed_out);
      case errc::cancelled:
        return std::make_error_condition(std::errc::operation_canceled);
      case errc::access_denied:
        return std::make_error_condition(std::errc::permission_denied);
      case errc::deadlock:
        return std::make_error_condition(std::errc::resource_deadlock_would_occur);
      default:
        return {code, *this};
    }
  }
};

}  // namespace

const char* name_of(errc code) noexcept { return text_of(code).name; }

const std::error_category& error_category() noexcept {
  static const Category category;
  return category;
}

struct Error::Detail {
  std::string message{};
  std::string native{};
  std::string key{};
  std::optional<bool> retryable{};
  std::optional<std::chrono::nanoseconds> may_hold_until{};
};

Error::Error(errc code, std::string message)
    : code_(code), detail_(std::make_shared<const Detail>(Detail{.message = std::move(message)})) {}

// Copies of an Error share their detail, so a change is made on a copy of it.
Error::Detail& Error::own_detail() {
  auto own = detail_ ? std::make_shared<Detail>(*detail_) : std::make_shared<Detail>();
  Detail& detail = *own;
  detail_ = std::move(own);
  return detail;
}

Error Error::with_native(std::string native) && {
  own_detail().native = std::move(native);
  return std::move(*this);
}

Error Error::with_key(std::string_view key) && {
  own_detail().key = key;
  return std::move(*this);
}

Error Error::with_retryable(bool retryable) && {
  own_detail().retryable = retryable;
  return std::move(*this);
}

Error Error::with_may_hold_until(std::chrono::nanoseconds boot_time) && {
  own_detail().may_hold_until = boot_time;
  return std::move(*this);
}

std::string Error::message() const {
  return detail_ && !detail_->message.empty() ? detail_->message : text_of(code_).sentence;
}

std::string_view Error::native() const noexcept { return detail_ ? std::string_view(detail_->native) : ""; }

std::string_view Error::key() const noexcept { return detail_ ? std::string_view(detail_->key) : ""; }

bool Error::retryable() const noexcept {
  return detail_ && detail_->retryable ? *detail_->retryable : retryable_by_default(code_);
}

std::optional<std::chrono::nanoseconds> Error::may_hold_until() const noexcept {
  return detail_ ? detail_->may_hold_until : std::nullopt;
}

std::string Error::to_string() const {
  std::string text = name_of(code_);
  text.append(": ").append(message());
  if (!native().empty()) text.append(" (").append(native()).append(")");
  return text;
}

}  // namespace lockr
