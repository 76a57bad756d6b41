#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "families/ensemble/gate.h"
#include "threads/pool.h"

namespace coterie::surgery {

/// What a gate is fitted on: S states, and how well each of N models did there.
struct GateSamples {
  int64_t width = 0, models = 0;
  std::vector<float> x = {};  // [S, D], as a gate reads them
  // [S, N]: log-likelihood of what came; with labels 0 for the right models, -inf for others
  std::vector<float> log_p = {};
  std::vector<float> weight = {};  // [S]: how much a sample counts
  std::vector<float> tokens = {};  // [S]: that the log-likelihood is of

  int64_t count() const { return std::ssize(weight); }
};

struct EnsembleFitting {
  int64_t steps = 300;
  double weight_decay = 1e-3;
  std::function<void(int64_t step)> on_step = {};
};

/// Sets the gate's rows and bias to those that minimise, from rows of zeros,
///
///   -Σ_s w_s log Σ_i g_i(x_s) exp(log_p_si) / Σ_s w_s + weight_decay / 2 · |W|²,
///
/// the loss of Jacobs et al. 1991 (eq. 1.3); its gradient by the gate's logits is g - h with the posterior
/// h_i ∝ g_i exp(log_p_i). With labels it is the cross-entropy of a softmax regression. Gradient descent with momentum
/// over all samples, on features of mean 0, about variance 1 and a norm of about 1, for which the curvature is at most
/// 1; W is of these features, and is written for the states themselves. Any number of threads gives the same bits.
void fit_gate(const GateSamples& samples, const EnsembleFitting& options, threads::Pool& pool, families::Gate& gate);

/// How a gate does on samples.
struct GateScore {
  double gated = 0, uniform = 0;  // mean cross-entropy of a token in nats; with labels, of the label
  std::vector<double> alone;      // [N]: of each model; with labels empty
  double right = 0;               // share of the samples where the model with most weight did best
  std::vector<double> weights;    // [N], mean
};
/// `labels`: the gate's weights before all but top_k are left out.
GateScore score_gate(const families::Gate& gate, const GateSamples& samples, bool labels);

}  // namespace coterie::surgery
