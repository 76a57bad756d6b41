#include "surgery/ensemble/ensemble_fit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"

namespace coterie::surgery {

namespace {

constexpr double kRate = 1, kMomentum = 0.9;
constexpr int64_t kFeatures = 32;  // whose gradient is one task

/// log Σ_i exp(a_i + b_i) over the models; -inf where none is possible.
double log_sum(std::span<const double> a, const float* b) {
  double top = -INFINITY;
  for (size_t i = 0; i < a.size(); ++i) top = std::max(top, a[i] + static_cast<double>(b[i]));
  if (top == -INFINITY) return top;
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::exp(a[i] + static_cast<double>(b[i]) - top);
  return top + std::log(sum);
}

/// x -> (x - mean) * scale, feature by feature.
struct Scaling {
  std::vector<double> mean, scale;
};

Scaling scaling_of(const GateSamples& samples) {
  const auto width = static_cast<size_t>(samples.width);
  Scaling s{std::vector<double>(width), std::vector<double>(width)};
  const double all = std::accumulate(samples.weight.begin(), samples.weight.end(), 0.0);
  const auto walk = [&](auto add) {
    for (int64_t i = 0; i < samples.count(); ++i)
      for (size_t d = 0; d < width; ++d)
        add(d, static_cast<double>(samples.weight[static_cast<size_t>(i)]) / all,
            static_cast<double>(samples.x[static_cast<size_t>(i) * width + d]));
  };
  walk([&](size_t d, double share, double x) { s.mean[d] += share * x; });
  std::vector<double> variance(width);
  walk([&](size_t d, double share, double x) { variance[d] += share * (x - s.mean[d]) * (x - s.mean[d]); });
  // Half of the scale is that of all features together: of a few samples, a feature's own says little.
  const double typical = std::accumulate(variance.begin(), variance.end(), 1e-12) / static_cast<double>(width);
  for (size_t d = 0; d < width; ++d) s.scale[d] = 1 / std::sqrt((variance[d] + typical) * static_cast<double>(width));
  return s;
}

class Fit {
 public:
  Fit(const GateSamples& samples, threads::Pool& pool)
      : samples_(samples),
        pool_(pool),
        n_(static_cast<size_t>(samples.models)),
        d_(static_cast<size_t>(samples.width)),
        columns_(d_ + 1),
        scaling_(scaling_of(samples)),
        z_(static_cast<size_t>(samples.count()) * columns_, 1),
        error_(samples.log_p.size()),
        map_(n_ * columns_),
        speed_(map_.size()) {
    const double all = std::accumulate(samples.weight.begin(), samples.weight.end(), 0.0);
    for (const float weight : samples.weight) share_.push_back(static_cast<double>(weight) / all);
    for (size_t i = 0; i < samples.x.size(); ++i)
      z_[i / d_ * columns_ + i % d_] =
          static_cast<float>((static_cast<double>(samples.x[i]) - scaling_.mean[i % d_]) * scaling_.scale[i % d_]);
  }

  void step(double decay) {
    const auto count = static_cast<int64_t>(share_.size());
    pool_.split(count, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t s = begin; s < end; ++s) compute_error(static_cast<size_t>(s));
    });
    // A feature's sum over the samples is one task's, so that its order is fixed; the last one is the bias.
    pool_.each((static_cast<int64_t>(columns_) + kFeatures - 1) / kFeatures, [&](int64_t task, int) {
      const auto begin = static_cast<size_t>(task * kFeatures);
      const size_t wide = std::min<size_t>(kFeatures, columns_ - begin);
      std::vector<double> gradient(n_ * kFeatures);
      for (size_t s = 0; s < share_.size(); ++s)
        for (size_t i = 0; i < n_; ++i) {
          const double error = error_[s * n_ + i];
          const float* z = z_.data() + s * columns_ + begin;
          double* sums = gradient.data() + i * kFeatures;
          for (size_t d = 0; d < wide; ++d) sums[d] += error * static_cast<double>(z[d]);
        }
      for (size_t i = 0; i < n_; ++i)
        for (size_t d = 0; d < wide; ++d) {
          const size_t at = i * columns_ + begin + d;
          const double decayed = begin + d < d_ ? decay * map_[at] : 0;
          speed_[at] = kMomentum * speed_[at] - kRate * (gradient[i * kFeatures + d] + decayed);
          map_[at] += speed_[at];
        }
    });
  }

  /// For the states as they are.
  void write(families::Gate& gate) const {
    gate.rows.assign(n_, std::vector<float>(d_));
    gate.bias.assign(n_, 0);
    for (size_t i = 0; i < n_; ++i) {
      double bias = map_[i * columns_ + d_];
      for (size_t d = 0; d < d_; ++d) {
        const double w = map_[i * columns_ + d] * scaling_.scale[d];
        gate.rows[i][d] = static_cast<float>(w);
        bias -= w * scaling_.mean[d];
      }
      gate.bias[i] = static_cast<float>(bias);
    }
  }

 private:
  // share · (g - h)
  void compute_error(size_t s) {
    std::vector<double> log_g(n_);
    for (size_t i = 0; i < n_; ++i) {
      const double* w = map_.data() + i * columns_;
      const float* z = z_.data() + s * columns_;
      std::array<double, 8> sums{};  // a sum in one order that eight lanes can share
      for (size_t d = 0; d < columns_; ++d) sums[d % 8] += w[d] * static_cast<double>(z[d]);
      for (const double sum : sums) log_g[i] += sum;
    }
    const std::vector<float> zeros(n_);
    const double total = log_sum(log_g, zeros.data());
    const float* log_p = samples_.log_p.data() + s * n_;
    const double mixture = log_sum(log_g, log_p);
    for (size_t i = 0; i < n_; ++i)
      error_[s * n_ + i] =
          share_[s] * (std::exp(log_g[i] - total) - std::exp(log_g[i] + static_cast<double>(log_p[i]) - mixture));
  }

  const GateSamples& samples_;
  threads::Pool& pool_;
  size_t n_, d_, columns_;  // N, D, D + 1: the last feature is 1
  Scaling scaling_;
  std::vector<float> z_;               // [S, D + 1]
  std::vector<double> share_, error_;  // [S], [S, N]
  std::vector<double> map_, speed_;    // [N, D + 1]
};

}  // namespace

void fit_gate(const GateSamples& samples, const EnsembleFitting& options, threads::Pool& pool, families::Gate& gate) {
  base::require(samples.count() > 0, "gate", "there are no samples");
  Fit fit(samples, pool);
  for (int64_t step = 0; step < options.steps; ++step) {
    if (options.on_step) options.on_step(step);
    fit.step(options.weight_decay);
  }
  fit.write(gate);
}

GateScore score_gate(const families::Gate& gate, const GateSamples& samples, bool labels) {
  const auto n = static_cast<size_t>(samples.models), width = static_cast<size_t>(samples.width);
  GateScore score;
  score.weights.resize(n);
  if (!labels) score.alone.resize(n);
  double tokens = 0;
  for (size_t s = 0; s < static_cast<size_t>(samples.count()); ++s) {
    const std::vector<double> x(samples.x.begin() + static_cast<std::ptrdiff_t>(s * width),
                                samples.x.begin() + static_cast<std::ptrdiff_t>((s + 1) * width));
    const float* log_p = samples.log_p.data() + s * n;
    std::vector<double> log_g = gate_weights(gate, x, labels);
    const auto first = std::max_element(log_g.begin(), log_g.end()) - log_g.begin();
    for (size_t i = 0; i < n; ++i) score.weights[i] += log_g[i];
    for (double& g : log_g) g = std::log(g);
    score.gated -= log_sum(log_g, log_p);
    score.uniform -= log_sum(std::vector<double>(n, -std::log(static_cast<double>(n))), log_p);
    for (size_t i = 0; i < score.alone.size(); ++i) score.alone[i] -= static_cast<double>(log_p[i]);
    score.right += log_p[first] == *std::max_element(log_p, log_p + n);
    tokens += static_cast<double>(samples.tokens[s]);
  }
  const auto count = static_cast<double>(samples.count());
  score.gated /= tokens, score.uniform /= tokens, score.right /= count;
  for (double& loss : score.alone) loss /= tokens;
  for (double& weight : score.weights) weight /= count;
  return score;
}

}  // namespace coterie::surgery
