// Asserts the code and the whole sentence of an Error.
#pragma once

#include <gtest/gtest.h>

#include <string_view>

#include "lockr/result.h"

namespace lockr {

template <class T>
::testing::AssertionResult fails_with(errc code, std::string_view message, const Result<T>& result) {
  if (result) return ::testing::AssertionFailure() << "succeeded instead of " << name_of(code);
  const Error& error = result.error();
  if (error.code() == code && error.message() == message) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "got " << error.to_string() << "\nexpected " << name_of(code) << ": "
                                       << message;
}

}  // namespace lockr
