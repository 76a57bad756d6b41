#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace coterie::base {

/// Philox 4x32-10 (Salmon et al. 2011): random numbers as a pure function of (key, counter). A draw is keyed by what
/// it is for (seed, sample, position, layer), so it is the same whatever the batch, the order or the thread.
struct Philox {
  static std::array<uint32_t, 4> block(uint64_t key, uint64_t counter_high, uint64_t counter_low) {
    uint32_t c0 = static_cast<uint32_t>(counter_low), c1 = static_cast<uint32_t>(counter_low >> 32);
    uint32_t c2 = static_cast<uint32_t>(counter_high), c3 = static_cast<uint32_t>(counter_high >> 32);
    uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
      const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0, n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
      c1 = static_cast<uint32_t>(p1), c3 = static_cast<uint32_t>(p0), c0 = n0, c2 = n2;
      k0 += 0x9E3779B9, k1 += 0xBB67AE85;
    }
    return {c0, c1, c2, c3};
  }
};

/// A stream of draws from one key. Copyable; its whole state is (key, stream, position), which is what one saves.
class Rng {
 public:
  explicit Rng(uint64_t key, uint64_t stream = 0) : key_(key), stream_(stream) {}

  uint32_t bits() {
    if (position_ % 4 == 0) block_ = Philox::block(key_, stream_, position_ / 4);
    return block_[position_++ % 4];
  }
  /// In [0, 1), 24 bits.
  float uniform() { return static_cast<float>(bits() >> 8) * 0x1p-24f; }
  /// In [0, 1), 53 bits.
  double uniform_double() {
    const uint64_t high = bits() >> 5, low = bits() >> 6;
    return static_cast<double>((high << 26) | low) * 0x1p-53;
  }
  /// N(0, 1), Box-Muller; two bits() a draw.
  float normal() {
    const float radius = std::sqrt(-2.0f * std::log(1.0f - uniform()));
    return radius * std::cos(6.283185307179586f * uniform());
  }
  /// In [0, n), n >= 1, without modulo bias beyond 2^-32.
  uint32_t below(uint32_t n) { return static_cast<uint32_t>((uint64_t{bits()} * n) >> 32); }

 private:
  uint64_t key_, stream_, position_ = 0;
  std::array<uint32_t, 4> block_{};
};

}  // namespace coterie::base
