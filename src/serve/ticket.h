#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "runtime/sampler.h"
#include "serve/request.h"
#include "serve/snapshot.h"
#include "text/tokenizer.h"

namespace coterie::serve {

/// A request from its submission to its end, as the threads share it: whoever submits raises flags, the scheduler's
/// thread looks at them and says how far it has come. All else belongs to that thread.
struct Ticket {
  RequestId id = 0;
  Request request;
  std::shared_ptr<Listener> listener;
  base::Stopwatch since;  // submission
  // Made where it is submitted: they may take longer than a step of others should.
  std::optional<runtime::Sampler> sampler;
  std::optional<text::StreamDecoder> decoder;
  int64_t limit = 0;  // positions its sequence may have in all
  int64_t pages = 0;  // of those
  int64_t ahead = 0;  // as it was last told
  std::atomic<bool> cancelled = false, paused = false;

  std::atomic<RequestState> state = RequestState::queued;
  std::atomic<bool> ended = false;
  std::atomic<int64_t> evaluated = 0, cached = 0, generated = 0;
  std::atomic<int64_t> remaining = 0;  // tokens of its prompt that are still to be read

  void send(Event&& event) { listener->on_event(id, std::move(event)); }
};

/// RequestFailed of whatever was thrown.
void send_failure(Ticket& ticket, const std::exception_ptr& error, const Usage& usage);

}  // namespace coterie::serve
