#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "comm/communicator.h"

namespace coterie::comm {

/// What a message is about. A rank that gets another kind than it waits for has lost the thread, which is an error that
/// names both.
enum class Kind : uint32_t {
  gather,           // a part of all_gather
  open,             // the model is to be opened
  rows,             // rows for the experts of the rank that gets it
  outputs,          // what experts gave for them
  step,             // a share of a step to evaluate
  keys,             // keys and values of a share's rows
  states,           // recurrent states after a share's rows
  logits,           // rows of logits
  gradients,        // of the loss, by what experts gave
  input_gradients,  // of the loss, by what experts read, and by what their outputs were multiplied with
  shard,            // gradients of a shard of a batch, by weights
  values,           // of weights, or of what the optimiser keeps of them
  ask,              // for such values
  part,             // of the outputs of weights: those of the sender's rows
  stream,           // the residual stream of rows, on its way to the next layers
  cache,            // blocks and states of a sequence that is asked for
  routes,           // what routers of the sender's layers decided
  move,             // time to repack weights
  probe,            // bytes that are sent back, to learn how fast the ranks' network is
  failure,          // the sender cannot go on: the text of its error
  stop,             // there is nothing more to do
};
std::string_view name(Kind kind);

/// The first bytes of every message.
struct Header {
  static constexpr uint32_t kMagic = 0x31525443;  // "CTR1"
  uint32_t magic = kMagic;
  Kind kind = Kind::gather;
  uint64_t step = 0;     // of the sender, which counts from 1
  int32_t layer = -1;    // that it is about; -1: none
  uint32_t number = 0;   // of several of a kind
  uint64_t payload = 0;  // bytes that follow
};
static_assert(sizeof(Header) == 32 && std::is_trivially_copyable_v<Header>);

/// Where the first thing from byte `at` of a message on may lie that is to begin a cache line.
constexpr size_t on_a_line(size_t at) { return (at + 63) / 64 * 64; }

/// A message while it is written: arrays of plain values one after the other, each padded to 8 bytes.
class Writer {
 public:
  Writer(Kind kind, uint64_t step, int64_t layer, size_t expected_bytes = 0) {
    bytes_.reserve(sizeof(Header) + expected_bytes);
    bytes_.resize(sizeof(Header));
    header_.kind = kind, header_.step = step, header_.layer = static_cast<int32_t>(layer);
  }
  void number(int64_t number) { header_.number = static_cast<uint32_t>(number); }
  template <typename T>
  void array(std::span<const T> values) {
    static_assert(std::is_trivially_copyable_v<T>);
    T* const copy = room<T>(values.size());
    if (!values.empty()) std::memcpy(copy, values.data(), values.size_bytes());
  }
  template <typename T>
  void value(const T& value) {
    array(std::span<const T>(&value, 1));
  }
  /// Room for `count` values, which the caller writes at once: the next call may move it.
  template <typename T>
  T* room(size_t count) {
    const size_t at = bytes_.size(), end = at + count * sizeof(T), padded = (end + 7) / 8 * 8;
    bytes_.resize(padded);
    if (padded > end) std::memset(bytes_.data() + end, 0, padded - end);
    return reinterpret_cast<T*>(bytes_.data() + at);
  }
  /// What comes next lies at a multiple of a cache line, header included: of rows that kernels read where they are.
  void align() {
    const size_t at = bytes_.size(), aligned = on_a_line(at);
    bytes_.resize(aligned);
    if (aligned > at) std::memset(bytes_.data() + at, 0, aligned - at);
  }
  /// Its length, then its bytes.
  void text(std::string_view text) {
    value<uint64_t>(text.size());
    array(std::span<const char>(text.data(), text.size()));
  }
  Bytes take() {
    header_.payload = bytes_.size() - sizeof(Header);
    std::memcpy(bytes_.data(), &header_, sizeof header_);
    return std::move(bytes_);
  }

 private:
  Header header_;
  Bytes bytes_;
};

/// The same while it is read. What is handed out lives as long as the message.
class Message {
 public:
  Message() = default;
  /// Throws internal for bytes that are not a message of this protocol.
  Message(int from, Bytes bytes);

  const Header& header() const { return header_; }
  int from() const { return from_; }

  /// The next `count` values. Throws internal where the message ends before.
  template <typename T>
  std::span<const T> array(size_t count) {
    static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= 8);
    return {reinterpret_cast<const T*>(take(count, sizeof(T))), count};
  }
  template <typename T>
  T value() {
    return array<T>(1).front();
  }
  std::string text();
  /// Where Writer::align() was called.
  void align() { at_ = on_a_line(at_); }
  /// Bytes that are left.
  size_t left() const { return at_ < bytes_.size() ? bytes_.size() - at_ : 0; }
  bool ended() const { return at_ == bytes_.size(); }

 private:
  const std::byte* take(size_t count, size_t size);

  int from_ = 0;
  Header header_;
  Bytes bytes_;
  size_t at_ = 0;
};

}  // namespace coterie::comm
