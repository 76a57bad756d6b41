#include "comm/inbox.h"

#include <algorithm>
#include <utility>

namespace coterie::comm {

namespace {

bool begins_something(const Message& message) {
  const Kind kind = message.header().kind;
  return message.from() == 0 && (kind == Kind::open || kind == Kind::stop || kind == Kind::rows || kind == Kind::step);
}

}  // namespace

Message Inbox::take(std::span<const char> from, const Awaited& awaited,
                    base::FunctionRef<bool(const Message&)> wanted) {
  const auto stale = [&](const Message& message) { return message.header().step < step_ && message.header().step > 0; };
  std::erase_if(kept_, stale);
  // Another rank may be in the next step already.
  const auto now = [&](const Message& message) { return message.header().step == step_; };
  for (Message& message : kept_)
    if (now(message) && message.header().kind == Kind::failure) ranks_.throw_failure(message);
  const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Message& m) { return now(m) && wanted(m); });
  if (found != kept_.end()) {
    Message message = std::move(*found);
    kept_.erase(found);
    return message;
  }
  while (true) {
    Message message = ranks_.receive_some(from, awaited);
    if (stale(message)) continue;
    if (now(message) && message.header().kind == Kind::failure) ranks_.throw_failure(message);
    if (now(message) && wanted(message)) return message;
    kept_.push_back(std::move(message));
  }
}

Message Inbox::take_whenever(base::FunctionRef<bool(const Message&)> wanted) {
  const auto now = [&](const Message& message) { return message.header().step == step_; };
  std::erase_if(kept_, [&](const Message& message) { return message.header().step < step_; });
  for (Message& message : kept_)
    if (now(message) && message.header().kind == Kind::failure) ranks_.throw_failure(message);
  const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Message& m) { return now(m) && wanted(m); });
  if (found != kept_.end()) {
    Message message = std::move(*found);
    kept_.erase(found);
    return message;
  }
  while (true) {
    Message message = ranks_.receive_next();
    if (now(message) && message.header().kind == Kind::failure) ranks_.throw_failure(message);
    if (now(message) && wanted(message)) return message;
    if (message.header().step >= step_) kept_.push_back(std::move(message));
  }
}

Message Inbox::next() {
  const auto found = std::find_if(kept_.begin(), kept_.end(), begins_something);
  if (found != kept_.end()) {
    Message message = std::move(*found);
    kept_.erase(found);
    return message;
  }
  while (true) {
    Message message = ranks_.receive_next();
    if (begins_something(message)) return message;
    // Of the next step: another rank has got its share of it already. Or of one that is over.
    kept_.push_back(std::move(message));
  }
}

}  // namespace coterie::comm
