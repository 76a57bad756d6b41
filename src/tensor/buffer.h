#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <utility>

#include "base/error.h"
#include "tensor/view.h"

namespace coterie::tensor {

inline constexpr int64_t kAlignment = 64;
inline constexpr int64_t kLargePage = 2 << 20;

/// Owning, aligned to a cache line, not initialised. From a large page on, it begins at one and asks the system for
/// them (a refusal costs speed only): what is read in long runs is read faster from them.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t count) : size_(count) {
    base::require(count >= 0 && count <= INT64_MAX / 2 / static_cast<int64_t>(sizeof(T)), "tensor::Buffer",
                  "a buffer of {} elements", count);
    if (count == 0) return;
    const auto wanted = static_cast<int64_t>(static_cast<size_t>(count) * sizeof(T));
    const int64_t alignment = wanted >= kLargePage ? kLargePage : kAlignment;
    const auto bytes = static_cast<size_t>((wanted + kAlignment - 1) / kAlignment * kAlignment);
    data_.reset(static_cast<T*>(std::aligned_alloc(static_cast<size_t>(alignment), bytes)));
    if (!data_) base::fail(base::ErrorKind::out_of_memory, "buffer", "{} bytes could not be allocated", bytes);
    if (alignment == kLargePage)
      ::madvise(data_.get(), bytes / kLargePage * static_cast<size_t>(kLargePage), MADV_HUGEPAGE);
  }
  Buffer(Buffer&& other) noexcept : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    data_ = std::move(other.data_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) { return data_.get()[i]; }
  const T& operator[](int64_t i) const { return data_.get()[i]; }
  std::span<T> span() { return {data_.get(), static_cast<size_t>(size_)}; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T[], Free> data_;
  int64_t size_ = 0;
};

}  // namespace coterie::tensor
