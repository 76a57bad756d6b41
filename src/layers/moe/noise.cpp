#include "layers/moe/noise.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/rng.h"
#include "layers/moe/scores.h"

namespace coterie::layers {

namespace {

/// Four draws from N(0, 1), by Box and Muller: of experts 4 block … 4 block + 3.
std::array<double, 4> normals(const ops::DropoutRow& row, int64_t layer, int64_t block) {
  constexpr uint64_t kPurpose = uint64_t{0x4e6f6973} << 32;  // apart from other draws by the same key
  const auto bits = base::Philox::block(row.sample, kPurpose | static_cast<uint64_t>(layer),
                                        static_cast<uint64_t>(row.position) << 24 | static_cast<uint64_t>(block));
  std::array<double, 4> draws;
  for (size_t i = 0; i < 4; i += 2) {
    const double radius = std::sqrt(-2 * std::log((static_cast<double>(bits[i]) + 0.5) * 0x1p-32));
    const double angle = 6.283185307179586 * (static_cast<double>(bits[i + 1]) * 0x1p-32);
    draws[i] = radius * std::cos(angle), draws[i + 1] = radius * std::sin(angle);
  }
  return draws;
}

template <typename F>
void for_draws(int64_t n, int64_t experts, std::span<const ops::DropoutRow> rows, int64_t layer, const F& f) {
  for (int64_t t = 0; t < n; ++t)
    for (int64_t e = 0; e < experts; e += 4) {
      const std::array<double, 4> draws = normals(rows[static_cast<size_t>(t)], layer, e / 4);
      for (int64_t i = e; i < std::min(e + 4, experts); ++i) f(t, i, draws[static_cast<size_t>(i - e)]);
    }
}

}  // namespace

void add_noise(tensor::ConstMatrix logits, tensor::ConstMatrix noise, std::span<const ops::DropoutRow> rows,
               int64_t layer, tensor::Matrix noisy) {
  for_draws(logits.rows, logits.cols, rows, layer, [&](int64_t t, int64_t e, double draw) {
    noisy.row(t)[e] = static_cast<float>(static_cast<double>(logits.row(t)[e]) +
                                         draw * softplus(static_cast<double>(noise.row(t)[e])));
  });
}

void add_noise_backward(tensor::ConstMatrix noise, std::span<const ops::DropoutRow> rows, int64_t layer,
                        tensor::ConstMatrix dnoisy, tensor::Matrix dlogits, tensor::Matrix dnoise) {
  for_draws(noise.rows, noise.cols, rows, layer, [&](int64_t t, int64_t e, double draw) {
    dlogits.row(t)[e] += dnoisy.row(t)[e];
    dnoise.row(t)[e] += static_cast<float>(static_cast<double>(dnoisy.row(t)[e]) * draw *
                                           sigmoid(static_cast<double>(noise.row(t)[e])));
  });
}

}  // namespace coterie::layers
