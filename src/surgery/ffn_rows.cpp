#include "surgery/ffn_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numeric>

#include "base/error.h"
#include "quant/codec.h"

namespace coterie::surgery {

namespace {

using tensor::Weight;

constexpr const char* kNames[] = {"gate", "up", "down"};

std::string path_of(int64_t layer, Part part) {
  return fmt::format("blocks.{}.ffn.{}", layer, kNames[static_cast<int>(part)]);
}

struct Moments {
  double mean = 0, deviation = 0;
};

/// Adds values up to their mean and deviation.
class Sums {
 public:
  void add(float value) {
    const auto v = static_cast<double>(value);
    sum_ += v, squares_ += v * v, ++count_;
  }
  Moments moments() const {
    if (count_ == 0) return {};
    const double mean = sum_ / count_;
    return {mean, std::sqrt(std::max(squares_ / count_ - mean * mean, 0.0))};
  }

 private:
  double sum_ = 0, squares_ = 0, count_ = 0;
};

/// What all rows of a matrix of experts need to know, found out when the first is made.
struct Prepared {
  std::once_flag once;
  Moments all;                          // of the parent's matrix
  std::vector<std::vector<bool>> anew;  // [E][F/G]: the units that are drawn anew
  std::vector<Moments> replaced;        // of them, by expert
};

// Which `count` of `units`: those of the smallest random numbers.
std::vector<bool> choose(int64_t units, int64_t count, base::Rng rng) {
  std::vector<std::pair<uint32_t, int64_t>> order;
  for (int64_t i = 0; i < units; ++i) order.emplace_back(rng.bits(), i);
  std::sort(order.begin(), order.end());
  std::vector<bool> chosen(static_cast<size_t>(units));
  for (int64_t i = 0; i < count; ++i) chosen[static_cast<size_t>(order[static_cast<size_t>(i)].second)] = true;
  return chosen;
}

// One pass over the parent's matrix, for all experts.
void prepare(Prepared& prepared, const Weight& weight, int64_t layer, Part part, const ExpertCut& cut) {
  const int64_t units = (part == Part::down ? weight.cols : weight.rows) / cut.granularity;
  const auto count = static_cast<int64_t>(std::llround(cut.reinit * static_cast<double>(units)));
  // By layer and expert, so that gate, up and down lose the same units.
  for (int64_t e = 0; e < cut.experts && cut.reinit > 0; ++e)
    prepared.anew.push_back(
        choose(units, count, row_rng(cut.seed, fmt::format("blocks.{}.units", layer), cut.first_expert + e, 0)));
  Sums all;
  std::vector<Sums> replaced(prepared.anew.size());
  std::vector<float> values(static_cast<size_t>(weight.cols));
  for (int64_t r = 0; r < weight.rows; ++r) {
    quant::decode(weight.dtype, weight.row(r), values.data(), weight.cols);
    if (cut.noise > 0)
      for (const float v : values) all.add(v);
    for (size_t e = 0; e < replaced.size(); ++e) {
      const std::vector<bool>& anew = prepared.anew[e];
      const int64_t first = static_cast<int64_t>(e) % cut.granularity * units;
      if (part == Part::down) {
        for (int64_t u = 0; u < units; ++u)
          if (anew[static_cast<size_t>(u)]) replaced[e].add(values[static_cast<size_t>(first + u)]);
      } else if (r >= first && r < first + units && anew[static_cast<size_t>(r - first)]) {
        for (const float v : values) replaced[e].add(v);
      }
    }
  }
  prepared.all = all.moments();
  for (const Sums& sums : replaced) prepared.replaced.push_back(sums.moments());
}

}  // namespace

Part part_by_name(std::string_view name) {
  for (int i = 0; i < 3; ++i)
    if (kNames[i] == name) return static_cast<Part>(i);
  base::fail(base::ErrorKind::internal, "experts", "\"{}\" is not a matrix of an FFN", name);
}

Rows expert_rows(const Weights& weights, int64_t layer, Part part, const ExpertCut& cut,
                 std::optional<tensor::DType> dtype) {
  const std::string path = path_of(layer, part);
  const Weight weight = weights.matrix(path);
  const bool down = part == Part::down;
  const int64_t rows = down ? weight.rows : weight.rows / cut.granularity;
  const int64_t cols = down ? weight.cols / cut.granularity : weight.cols;
  Rows result{cut.experts, rows, cols, dtype.value_or(weight.dtype), {}};
  const double scale = cut.scale[static_cast<int>(part)];
  const bool noisy = cut.noise > 0 || cut.noise_size > 0;
  if (scale == 1 && !noisy && cut.reinit == 0 && result.dtype == weight.dtype) {
    for (int64_t e = 0; e < cut.experts; ++e) {
      const int64_t piece = e % cut.granularity;
      Weight one = weight;
      one.rows = rows, one.cols = cols;
      one.data = down ? weight.data + tensor::row_bytes(weight.dtype, piece * cols) : weight.row(piece * rows);
      result.verbatim.push_back(one);
    }
    return result;
  }
  const auto prepared = std::make_shared<Prepared>();
  result.fill = [=](int64_t expert, int64_t row, float* values) {
    if (cut.noise > 0 || cut.reinit > 0)
      std::call_once(prepared->once, [&] { prepare(*prepared, weight, layer, part, cut); });
    const int64_t piece = expert % cut.granularity;
    const std::byte* source =
        down ? weight.row(row) + tensor::row_bytes(weight.dtype, piece * cols) : weight.row(piece * rows + row);
    quant::decode(weight.dtype, source, values, cols);
    if (noisy) {
      base::Rng rng = row_rng(cut.seed, path + ".noise", cut.first_expert + expert, row);
      const auto deviation = static_cast<float>(std::hypot(cut.noise * prepared->all.deviation, cut.noise_size));
      for (int64_t c = 0; c < cols; ++c) values[c] += deviation * rng.normal();
    }
    if (cut.reinit > 0 && (down || prepared->anew[static_cast<size_t>(expert)][static_cast<size_t>(row)])) {
      base::Rng rng = row_rng(cut.seed, path + ".anew", cut.first_expert + expert, row);
      const std::vector<bool>& anew = prepared->anew[static_cast<size_t>(expert)];
      const Moments& like = prepared->replaced[static_cast<size_t>(expert)];
      for (int64_t c = 0; c < cols; ++c) {
        const float drawn = static_cast<float>(like.mean) + static_cast<float>(like.deviation) * rng.normal();
        if (anew[static_cast<size_t>(down ? c : row)]) values[c] = drawn;
      }
    }
    if (scale != 1)
      for (int64_t c = 0; c < cols; ++c) values[c] *= static_cast<float>(scale);
  };
  return result;
}

Rows expert_biases(const Weights& weights, int64_t layer, Part part, const ExpertCut& cut) {
  const std::string path = path_of(layer, part) + ".bias";
  const layers::Vector* bias = weights.vector(path);
  base::require(bias != nullptr, "experts", "there is no {}", path);
  const auto n = static_cast<int64_t>(bias->values.size()) / (part == Part::down ? 1 : cut.granularity);
  const auto scale = static_cast<float>(cut.bias_scale[static_cast<int>(part)]);
  Rows rows = weights.rows(path);  // for its format
  const tensor::DType dtype = scale == 1 ? rows.dtype : tensor::DType::f32;
  return {1, cut.experts, n, dtype, [=, values = bias->data()](int64_t, int64_t expert, float* out) {
            const float* from = values + (part == Part::down ? 0 : expert % cut.granularity * n);
            for (int64_t i = 0; i < n; ++i) out[i] = from[i] * scale;
          }};
}

}  // namespace coterie::surgery
