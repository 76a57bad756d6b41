#include "runtime/expert_store/slot_arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/memory.h"
#include "tensor/buffer.h"

namespace coterie::runtime {

SlotArena::SlotArena(std::span<const int64_t> slot_bytes, std::span<const int64_t> counts, int64_t unit) {
  base::require(slot_bytes.size() == counts.size(), "slots", "{} sizes, {} counts", slot_bytes.size(), counts.size());
  const int64_t step = std::max(unit, tensor::kAlignment);
  const auto stride = [&](size_t i) { return (slot_bytes[i] + step - 1) / step * step; };
  for (size_t i = 0; i < counts.size(); ++i) bytes_ += stride(i) * counts[i];
  if (bytes_ == 0) return;
  mapped_ = bytes_ + tensor::kLargePage;  // to begin at a large page
  void* const memory = ::mmap(nullptr, static_cast<size_t>(mapped_), PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    base::fail(base::ErrorKind::out_of_memory, "slots for experts", "{} could not be had from the system",
               base::human_bytes(bytes_));
  memory_ = static_cast<std::byte*>(memory);
  const auto address = reinterpret_cast<uintptr_t>(memory_);
  std::byte* at =
      memory_ + (tensor::kLargePage - static_cast<int64_t>(address % tensor::kLargePage)) % tensor::kLargePage;
  ::madvise(at, static_cast<size_t>(bytes_), MADV_HUGEPAGE);
  bool resident = false;
#ifdef MADV_POPULATE_WRITE
  resident = ::madvise(at, static_cast<size_t>(bytes_), MADV_POPULATE_WRITE) == 0;
#endif
  if (!resident)
    for (int64_t i = 0; i < bytes_; i += 4096) *static_cast<volatile std::byte*>(at + i) = std::byte{0};
  for (size_t i = 0; i < counts.size(); ++i) {
    classes_.push_back({at, stride(i)});
    at += stride(i) * counts[i];
  }
}

SlotArena::SlotArena(SlotArena&& other) noexcept
    : classes_(std::move(other.classes_)),
      memory_(std::exchange(other.memory_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      mapped_(std::exchange(other.mapped_, 0)) {}

SlotArena& SlotArena::operator=(SlotArena&& other) noexcept {
  std::swap(classes_, other.classes_), std::swap(memory_, other.memory_);
  std::swap(bytes_, other.bytes_), std::swap(mapped_, other.mapped_);
  return *this;
}

SlotArena::~SlotArena() {
  if (memory_) ::munmap(memory_, static_cast<size_t>(mapped_));
}

}  // namespace coterie::runtime
