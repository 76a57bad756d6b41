#include "comm/inbox.h"

#include <algorithm>
#include <utility>

namespace coterie::comm {

namespace {

constexpr auto begins_something = [](const Message& message) {
  const Kind kind = message.header().kind;
  return message.from() == 0 && (kind == Kind::open || kind == Kind::stop || kind == Kind::rows || kind == Kind::step ||
                                 kind == Kind::cache || kind == Kind::move);
};

}  // namespace

std::optional<Message> Inbox::take_kept(base::FunctionRef<bool(const Message&)> wanted) {
  const auto found = std::find_if(kept_.begin(), kept_.end(), wanted);
  if (found == kept_.end()) return std::nullopt;
  Message message = std::move(*found);
  kept_.erase(found);
  return message;
}

Message Inbox::take_of_step(base::FunctionRef<bool(const Message&)> wanted,
                            base::FunctionRef<bool(const Message&)> stale, base::FunctionRef<Message()> receive) {
  std::erase_if(kept_, stale);
  // Another rank may be in the next step already.
  const auto now = [&](const Message& message) { return message.header().step == step_; };
  const auto failed = [&](const Message& message) { return now(message) && message.header().kind == Kind::failure; };
  for (Message& message : kept_)
    if (failed(message)) ranks_.throw_failure(message);
  if (auto message = take_kept([&](const Message& m) { return now(m) && wanted(m); })) return std::move(*message);
  while (true) {
    Message message = receive();
    if (failed(message)) ranks_.throw_failure(message);
    if (now(message) && wanted(message)) return message;
    if (!stale(message)) kept_.push_back(std::move(message));
  }
}

Message Inbox::take(std::span<const char> from, const Awaited& awaited,
                    base::FunctionRef<bool(const Message&)> wanted) {
  const auto stale = [&](const Message& message) { return message.header().step < step_ && message.header().step > 0; };
  return take_of_step(wanted, stale, [&] { return ranks_.receive_some(from, awaited); });
}

Message Inbox::take_whenever(base::FunctionRef<bool(const Message&)> wanted) {
  const auto stale = [&](const Message& message) { return message.header().step < step_; };
  return take_of_step(wanted, stale, [&] { return ranks_.receive_next(); });
}

void Inbox::poll() {
  while (std::optional<Message> message = ranks_.try_any()) kept_.push_back(std::move(*message));
}

Message Inbox::next() {
  if (auto message = take_kept(begins_something)) return std::move(*message);
  while (true) {
    Message message = ranks_.receive_next();
    if (begins_something(message)) return message;
    // Of the next step: another rank has got its share of it already. Or of one that is over.
    kept_.push_back(std::move(message));
  }
}

}  // namespace coterie::comm
