#include "serve/request.h"

#include <utility>

namespace coterie::serve {

std::string_view name(FinishReason reason) {
  switch (reason) {
    case FinishReason::end_token: return "end token";
    case FinishReason::stop_string: return "stop string";
    case FinishReason::max_tokens: return "token limit";
    case FinishReason::context_full: return "context full";
    case FinishReason::cancelled: return "cancelled";
  }
  return "unknown";
}

// The kind of error that says: not now, for want of room.
Refused::Refused(Reason reason, double retry_after_seconds, std::string message)
    : base::Error(base::ErrorKind::out_of_memory, "server", std::move(message), "try again later"),
      reason_(reason),
      retry_after_seconds_(retry_after_seconds) {}

}  // namespace coterie::serve
