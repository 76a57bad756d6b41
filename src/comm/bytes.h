#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

namespace coterie::comm {

/// Blocks of memory that messages have left, kept by the thread that gave them back for its next ones: of fresh memory
/// each 4 KB cost a page fault, and a layer's rows and outputs are megabytes. All of it is here and inline, since the
/// modules of the MPIs have it too.
class MessageBlocks {
 public:
  static constexpr size_t kAlignment = 64, kSmallest = size_t{64} << 10, kMostKept = size_t{32} << 20;

  static std::byte* take(size_t& capacity) {
    if (capacity >= kSmallest && !closed()) {
      std::vector<Block>& kept = list().kept;
      size_t best = kept.size();
      for (size_t i = 0; i < kept.size(); ++i)
        if (kept[i].capacity >= capacity && kept[i].capacity <= 4 * capacity &&
            (best == kept.size() || kept[i].capacity < kept[best].capacity))
          best = i;
      if (best < kept.size()) {
        const Block block = kept[best];
        kept[best] = kept.back();
        kept.pop_back();
        list().bytes -= block.capacity;
        capacity = block.capacity;
        return block.data;
      }
    }
    capacity = (capacity + kAlignment - 1) / kAlignment * kAlignment;
    auto* const data = static_cast<std::byte*>(std::aligned_alloc(kAlignment, capacity));
    if (!data) throw std::bad_alloc();
    return data;
  }
  static void give_back(std::byte* data, size_t capacity) noexcept {
    if (capacity >= kSmallest && !closed() && list().bytes + capacity <= kMostKept) {
      try {
        list().kept.push_back({data, capacity});
        list().bytes += capacity;
        return;
      } catch (const std::bad_alloc&) {  // then it is not kept
      }
    }
    std::free(data);
  }

 private:
  struct Block {
    std::byte* data;
    size_t capacity;
  };
  struct List {
    std::vector<Block> kept;
    size_t bytes = 0;
    ~List() {
      closed() = true;
      for (const Block& block : kept) std::free(block.data);
    }
  };
  static bool& closed() {  // messages may outlive the thread's list
    static thread_local bool is = false;
    return is;
  }
  static List& list() {
    static thread_local List of_thread;
    return of_thread;
  }
};

/// The bytes of one message, header included (comm/message.h), at a multiple of a cache line. New ones are not
/// initialised.
class Bytes {
 public:
  Bytes() = default;
  explicit Bytes(size_t size) { resize(size); }
  Bytes(const Bytes& other) : Bytes(other.size_) {
    if (size_ > 0) std::memcpy(data_, other.data_, size_);
  }
  Bytes(Bytes&& other) noexcept { swap(other); }
  Bytes& operator=(Bytes other) noexcept {
    swap(other);
    return *this;
  }
  ~Bytes() {
    if (data_) MessageBlocks::give_back(data_, capacity_);
  }

  size_t size() const { return size_; }
  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }

  void reserve(size_t capacity) {
    if (capacity <= capacity_) return;
    Bytes larger;
    larger.capacity_ = capacity;
    larger.data_ = MessageBlocks::take(larger.capacity_);
    larger.size_ = size_;
    if (size_ > 0) std::memcpy(larger.data_, data_, size_);
    swap(larger);
  }
  void resize(size_t size) {
    if (size > capacity_) reserve(capacity_ == 0 ? size : size > 2 * capacity_ ? size : 2 * capacity_);
    size_ = size;
  }

 private:
  void swap(Bytes& other) noexcept {
    std::swap(data_, other.data_), std::swap(size_, other.size_), std::swap(capacity_, other.capacity_);
  }

  std::byte* data_ = nullptr;
  size_t size_ = 0, capacity_ = 0;
};

}  // namespace coterie::comm
