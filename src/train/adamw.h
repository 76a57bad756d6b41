#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/tensor_sink.h"
#include "tensor/buffer.h"
#include "threads/pool.h"

namespace coterie::train {

/// AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), as torch.optim.AdamW computes it, in f32:
///   w ← w − lr·decay·w;  m ← β₁m + (1 − β₁)g;  v ← β₂v + (1 − β₂)g²;  w ← w − lr·(m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) +
///   ε)
struct AdamWSpec {
  double beta1 = 0.9, beta2 = 0.95;
  double eps = 1e-8;
};

/// Which part of a parameter an optimiser has, of several that have one each.
struct ParameterPart {
  int64_t begin = 0;  // of the values that it has, in the whole
  int64_t whole = 0;  // values of the whole; 0: those it has are all
  int64_t block = 0;  // values that belong together: no partial sum reaches over their ends; 0: all
};

class AdamW {
 public:
  /// Values of a partial sum of the norm, and of what a thread updates at once.
  static constexpr int64_t kPiece = 1 << 15;

  explicit AdamW(const AdamWSpec& spec) : spec_(spec) {}

  /// What is to be trained: n values that stay where they are, the gradient that is read at each step, and the group's
  /// weight decay and factor on the learning rate.
  void add(std::string name, std::span<float> values, std::span<float> gradient, double weight_decay,
           double rate_factor = 1, const ParameterPart& part = {});

  /// √Σg² over all gradients. Summed in one order, whatever the number of threads.
  double gradient_norm(threads::Pool& pool) const;
  /// What that adds up: Σg² of each piece, in the order in which parameters were added.
  std::vector<double> squares(threads::Pool& pool) const;
  /// One step with the gradients times `gradient_scale` (clipping). The bits do not depend on the number of threads.
  /// With `clear` the gradients are zero afterwards.
  void step(threads::Pool& pool, double rate, double gradient_scale, bool clear = false);

  /// Steps taken.
  int64_t steps() const { return steps_; }
  int64_t parameters() const;

  /// first_moment.NAME and second_moment.NAME, f32 [n], for a checkpoint. The optimiser must outlive the writing.
  std::vector<checkpoint::TensorToWrite> tensors_to_write() const;
  /// Continues from such tensors, which are of whole parameters. `parameters`: how many they are of, where this
  /// optimiser has a part; 0: its own. Throws not_found and bad_input, naming the tensor, when they are of another
  /// model.
  void restore(const checkpoint::TensorSource& source, int64_t steps, size_t parameters = 0);
  /// The moments of the parameter that was added as the index-th.
  struct Moments {
    std::span<const float> first, second;
  };
  Moments moments(size_t index) const;

 private:
  struct Parameter {
    std::string name;
    std::span<float> values;
    std::span<float> gradient;
    double weight_decay, rate_factor;
    ParameterPart part;
    tensor::Buffer<float> first, second;
  };
  // A piece of a parameter that one worker updates.
  struct Piece {
    size_t parameter;
    int64_t begin, end;
  };
  void update(const Piece& piece, double rate, double gradient_scale, bool clear);

  AdamWSpec spec_;
  int64_t steps_ = 0;
  std::vector<Parameter> parameters_;
  std::vector<Piece> pieces_;
};

}  // namespace coterie::train
