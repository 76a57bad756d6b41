#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/rng.h"

namespace coterie::checkpoint {

/// Random bytes faster than memory takes them: four xoroshiro128+ generators (Blackman & Vigna 2018) side by side,
/// which compilers turn into vector code, seeded by Philox. Not for sampling: the lowest bits are weak.
class RandomStream {
 public:
  RandomStream(uint64_t key, uint64_t stream) {
    base::Rng seed(key, stream);
    for (auto* state : {&a_, &b_})
      for (uint64_t& word : *state) word = (uint64_t{seed.bits()} << 32) | seed.bits() | 1;  // never all zero
  }

  void fill(std::span<std::byte> target) {
    std::array<uint64_t, kLanes> words;
    while (!target.empty()) {
      for (size_t i = 0; i < kLanes; ++i) {
        const uint64_t a = a_[i], b = b_[i] ^ a;
        words[i] = a + b_[i];
        a_[i] = ((a << 24) | (a >> 40)) ^ b ^ (b << 16);
        b_[i] = (b << 37) | (b >> 27);
      }
      const size_t size = target.size() < sizeof words ? target.size() : sizeof words;
      std::memcpy(target.data(), words.data(), size);
      target = target.subspan(size);
    }
  }

 private:
  static constexpr size_t kLanes = 4;
  std::array<uint64_t, kLanes> a_, b_;
};

}  // namespace coterie::checkpoint
