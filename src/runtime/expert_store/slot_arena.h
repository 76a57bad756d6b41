#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace coterie::runtime {

/// Memory for experts in slots of a few sizes: one piece, in large pages where the system has them, all of it resident
/// from the beginning and never given back, so that nothing is allocated, faulted in or reclaimed while a model runs.
class SlotArena {
 public:
  SlotArena() = default;
  /// slot_bytes, counts: by size class. Slots begin at multiples of `unit`. Throws out_of_memory.
  SlotArena(std::span<const int64_t> slot_bytes, std::span<const int64_t> counts, int64_t unit);
  SlotArena(SlotArena&& other) noexcept;
  SlotArena& operator=(SlotArena&& other) noexcept;
  ~SlotArena();

  std::byte* slot(int32_t size_class, int64_t number) const {
    const Class& of = classes_[static_cast<size_t>(size_class)];
    return of.first + number * of.stride;
  }
  int64_t bytes() const { return bytes_; }

 private:
  struct Class {
    std::byte* first = nullptr;
    int64_t stride = 0;
  };
  std::vector<Class> classes_;
  std::byte* memory_ = nullptr;
  int64_t bytes_ = 0, mapped_ = 0;
};

}  // namespace coterie::runtime
