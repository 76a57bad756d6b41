#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"
#include "text/bridge/bridge.h"

// Owners for what the Rust library hands out, and its error codes as Errors.
namespace coterie::text {

class BridgeBytes {
 public:
  BridgeBytes() = default;
  ~BridgeBytes() { coterie_bytes_free(bytes_); }
  BridgeBytes(const BridgeBytes&) = delete;
  BridgeBytes& operator=(const BridgeBytes&) = delete;

  CoterieBytes* out() { return &bytes_; }
  std::string_view view() const { return {bytes_.data, bytes_.size}; }

 private:
  CoterieBytes bytes_{};
};

inline CoterieSlice slice(std::string_view text) { return {text.data(), text.size()}; }

/// Throws what the Rust side said: 1 is bad input, anything else a bug.
inline void check_bridge(int32_t code, std::string_view where, const BridgeBytes& error) {
  if (code == 0) [[likely]]
    return;
  const base::ErrorKind kind = code == 1 ? base::ErrorKind::bad_input : base::ErrorKind::internal;
  throw base::Error(kind, std::string(where), std::string(error.view()));
}

}  // namespace coterie::text
