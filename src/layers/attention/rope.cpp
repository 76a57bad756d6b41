#include "layers/attention/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace coterie::layers {

namespace {

// theta^(2i/dims) for each pair i, in f32 as torch computes it.
std::vector<float> powers(float theta, int64_t dims) {
  std::vector<float> result(static_cast<size_t>(dims / 2));
  for (size_t i = 0; i < result.size(); ++i)
    result[i] = std::pow(theta, static_cast<float>(2 * i) / static_cast<float>(dims));
  return result;
}

std::vector<float> plain_frequencies(float theta, int64_t dims) {
  std::vector<float> f = powers(theta, dims);
  for (float& value : f) value = 1.0f / value;
  return f;
}

// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between interpolated.
void scale_llama3(const RopeSpec& spec, std::vector<float>& frequency) {
  const auto original = static_cast<double>(spec.original_context);
  const auto factor = static_cast<float>(spec.factor);
  for (float& f : frequency) {
    const float wavelength = static_cast<float>(2 * std::numbers::pi) / f;
    if (wavelength > static_cast<float>(original / spec.low_freq_factor)) {
      f /= factor;
    } else if (wavelength >= static_cast<float>(original / spec.high_freq_factor)) {
      const float smooth = (static_cast<float>(original) / wavelength - static_cast<float>(spec.low_freq_factor)) /
                           static_cast<float>(spec.high_freq_factor - spec.low_freq_factor);
      f = (1 - smooth) * f / factor + smooth * f;
    }
  }
}

double yarn_magnitude(double scale, double mscale) { return scale <= 1 ? 1 : 0.1 * mscale * std::log(scale) + 1; }

// YaRN (Peng et al. 2023): a ramp between interpolated and extrapolated frequencies.
void scale_yarn(const RopeSpec& spec, ops::RopeTable& table) {
  const auto dims = static_cast<double>(spec.dims);
  const auto dim_of_rotations = [&](double rotations) {
    return dims * std::log(static_cast<double>(spec.original_context) / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(spec.theta));
  };
  double low = dim_of_rotations(spec.beta_fast), high = dim_of_rotations(spec.beta_slow);
  if (spec.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, dims - 1);
  if (low == high) high += 0.001;
  const std::vector<float> power = powers(static_cast<float>(spec.theta), spec.dims);
  for (size_t i = 0; i < power.size(); ++i) {
    const float ramp =
        std::clamp((static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f, 1.0f);
    const float keep = 1 - ramp;
    table.frequency[i] = 1.0f / (static_cast<float>(spec.factor) * power[i]) * (1 - keep) + 1.0f / power[i] * keep;
  }
  if (spec.attention_factor)
    table.magnitude = static_cast<float>(*spec.attention_factor);
  else if (spec.mscale.value_or(0) != 0 && spec.mscale_all_dim.value_or(0) != 0)
    table.magnitude = static_cast<float>(yarn_magnitude(spec.factor, *spec.mscale) /
                                         yarn_magnitude(spec.factor, *spec.mscale_all_dim));
  else
    table.magnitude = static_cast<float>(yarn_magnitude(spec.factor, 1));
}

// LongRoPE: each frequency has a divisor of its own, found by search when the model was made.
void scale_longrope(const RopeSpec& spec, bool long_sequence, ops::RopeTable& table) {
  const std::vector<float>& factors = long_sequence ? spec.long_factors : spec.short_factors;
  base::require(factors.size() == table.frequency.size(), "rope", "{} longrope factors for {} dimensions",
                factors.size(), spec.dims);
  const std::vector<float> power = powers(static_cast<float>(spec.theta), spec.dims);
  for (size_t i = 0; i < power.size(); ++i) table.frequency[i] = 1.0f / (factors[i] * power[i]);
  table.magnitude = long_sequence ? spec.long_magnitude : spec.short_magnitude;
}

}  // namespace

ops::RopeTable rope_table(const RopeSpec& spec, int64_t length) {
  base::require(spec.dims > 0 && spec.dims % 2 == 0, "rope", "{} rotary dimensions", spec.dims);
  ops::RopeTable table;
  table.style = spec.style;
  table.dims = spec.dims;
  table.frequency = plain_frequencies(static_cast<float>(spec.theta), spec.dims);
  switch (spec.scaling) {
    case RopeSpec::Scaling::none: break;
    case RopeSpec::Scaling::linear:
      for (float& f : table.frequency) f /= static_cast<float>(spec.factor);
      break;
    case RopeSpec::Scaling::dynamic:
      if (length > spec.original_context) {
        const float stretch =
            static_cast<float>(spec.factor) * static_cast<float>(length) / static_cast<float>(spec.original_context) -
            static_cast<float>(spec.factor - 1);
        const double exponent = static_cast<double>(spec.dims) / static_cast<double>(spec.dims - 2);
        table.frequency = plain_frequencies(
            static_cast<float>(spec.theta) * std::pow(stretch, static_cast<float>(exponent)), spec.dims);
      }
      break;
    case RopeSpec::Scaling::llama3: scale_llama3(spec, table.frequency); break;
    case RopeSpec::Scaling::yarn: scale_yarn(spec, table); break;
    case RopeSpec::Scaling::longrope: scale_longrope(spec, length > spec.original_context, table); break;
  }
  if (spec.turning_dims > 0) std::fill(table.frequency.begin() + spec.turning_dims / 2, table.frequency.end(), 0.0f);
  for (size_t i = 0; i < spec.divisors.size(); ++i) table.frequency[i] /= spec.divisors[i];
  return table;
}

Rope::Rope(const RopeSpec& spec) : spec_(spec), table_(rope_table(spec)) {
  if (spec.scaling == RopeSpec::Scaling::longrope) long_table_ = rope_table(spec, spec.original_context + 1);
}

bool Rope::frequencies_change(const RopeSpec& spec, int64_t before, int64_t after) {
  if (spec.scaling == RopeSpec::Scaling::longrope) {
    const bool same = spec.short_factors == spec.long_factors && spec.short_magnitude == spec.long_magnitude;
    return !same && (before > spec.original_context) != (after > spec.original_context);
  }
  if (spec.scaling != RopeSpec::Scaling::dynamic) return false;
  return std::max(before, spec.original_context) != std::max(after, spec.original_context);
}

void Rope::forward(const Batch& batch, int64_t heads, tensor::Matrix x) const {
  const bool grown = std::any_of(batch.sequences.begin(), batch.sequences.end(), [&](const SequenceRows& sequence) {
    return frequencies_change(spec_, 0, sequence.step.length);
  });
  if (!grown) return ops::rope(batch.context, table_, batch.positions, heads, x);
  for (const SequenceRows& sequence : batch.sequences) {
    const auto positions =
        batch.positions.subspan(static_cast<size_t>(sequence.first_row), static_cast<size_t>(sequence.rows));
    const tensor::Matrix rows = x.row_range(sequence.first_row, sequence.first_row + sequence.rows);
    if (!frequencies_change(spec_, 0, sequence.step.length))
      ops::rope(batch.context, table_, positions, heads, rows);
    else
      ops::rope(batch.context, long_table_ ? *long_table_ : rope_table(spec_, sequence.step.length), positions, heads,
                rows);
  }
}

}  // namespace coterie::layers
