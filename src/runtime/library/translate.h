#pragma once

#include <coterie/coterie.h>

#include <exception>
#include <utility>

namespace coterie::library {

/// The promised header's error for what is being handled now. Called inside a catch block.
Error public_error();

/// What a caller's own callback has thrown, on its way through the rooms.
struct FromCallback {
  std::exception_ptr thrown;
};

/// Calls a caller's function for the rooms.
template <typename Callback, typename... Args>
auto call_back(const Callback& callback, Args&&... args) {
  try {
    return callback(std::forward<Args>(args)...);
  } catch (...) {
    throw FromCallback{std::current_exception()};
  }
}

/// What `body` returns. Whatever it throws leaves as a coterie::Error, except what a callback has thrown: that leaves
/// as it is.
template <typename Body>
decltype(auto) translated(Body body) {
  try {
    return body();
  } catch (const FromCallback& callback) {
    std::rethrow_exception(callback.thrown);
  } catch (...) {
    throw public_error();
  }
}

/// The same for an exception that is kept; null for null.
std::exception_ptr translated_error(const std::exception_ptr& error) noexcept;

}  // namespace coterie::library
