#include "comm/message.h"

#include <utility>

#include "base/error.h"

namespace coterie::comm {

std::string_view name(Kind kind) {
  switch (kind) {
    case Kind::gather: return "a part of what all gather";
    case Kind::open: return "that the model is to be opened";
    case Kind::rows: return "rows for its experts";
    case Kind::outputs: return "outputs of experts";
    case Kind::step: return "a share of a step";
    case Kind::keys: return "keys and values";
    case Kind::states: return "recurrent states";
    case Kind::logits: return "rows of logits";
    case Kind::gradients: return "gradients of what experts gave";
    case Kind::input_gradients: return "gradients of what experts read";
    case Kind::shard: return "gradients of weights";
    case Kind::values: return "weights";
    case Kind::ask: return "a question for weights";
    case Kind::part: return "a part of outputs of weights";
    case Kind::stream: return "rows for the next layers";
    case Kind::cache: return "a sequence's cache";
    case Kind::routes: return "what routers decided";
    case Kind::move: return "time to repack weights";
    case Kind::probe: return "a probe of the network";
    case Kind::failure: return "a failure";
    case Kind::stop: return "the end";
  }
  return "something unknown";
}

Message::Message(int from, Bytes bytes) : from_(from), bytes_(std::move(bytes)), at_(sizeof(Header)) {
  base::require(bytes_.size() >= sizeof(Header), "ranks", "rank {} sent a message of {} bytes", from, bytes_.size());
  std::memcpy(&header_, bytes_.data(), sizeof header_);
  base::require(header_.magic == Header::kMagic, "ranks", "rank {} sent what is not a message of Coterie: {:08x}", from,
                header_.magic);
  base::require(header_.payload == bytes_.size() - sizeof(Header), "ranks",
                "a message of rank {} has {} bytes, its header says {}", from, bytes_.size() - sizeof(Header),
                header_.payload);
}

const std::byte* Message::take(size_t count, size_t size) {
  const size_t left = this->left();
  base::require(count <= left / size, "ranks", "a message of rank {} ({}) ends {} bytes before what it should hold",
                from_, name(header_.kind), count * size - left);
  const std::byte* const data = bytes_.data() + at_;
  at_ += (count * size + 7) / 8 * 8;
  return data;
}

std::string Message::text() {
  const auto size = value<uint64_t>();
  const std::span<const char> bytes = array<char>(size);
  return {bytes.begin(), bytes.end()};
}

}  // namespace coterie::comm
