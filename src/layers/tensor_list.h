#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ops/matmul.h"
#include "tensor/buffer.h"
#include "tensor/view.h"

// Each layer lists its tensors once, in visit(); loading, counting, saving and whatever comes later (quantising,
// merging, optimising) are visitors of that list. A tensor's canonical name is its path in the code:
// "blocks.3.moe.experts.gate". What a file calls it is a table (families/names).
namespace coterie::layers {

/// Where parameters live.
enum class Place { input_embeddings, mixer, router, experts, shared_experts, dense_ffn, norms, output_embeddings };
inline constexpr int kPlaces = 8;
std::string_view name(Place place);  // "input_embeddings", …

/// A vector of weights (norms, biases), decoded to f32 when it is bound: small, and read by ops as floats.
struct Vector {
  tensor::Buffer<float> values;  // [n]; empty when the layer has none
  // The file holds -exp of the parameter (GGUF's ssm_a for A_log), and so does `values`: exact both ways.
  bool minus_exp = false;
  const float* data() const { return values.size() ? values.data() : nullptr; }
};

/// What tuning adds to a projection that stays as it is (layers/lora.h computes it); empty: nothing. The memory is
/// that of whoever laid it there.
struct Lora {
  ops::LowRank low_rank;
  // DoRA (Liu et al. 2024, arXiv:2402.09353): what comes out is multiplied by magnitude / norm, where norm is that of
  // each row of W + scale · B·A; null: LoRA.
  const float *magnitude = nullptr, *norm = nullptr;  // [outputs]
  float dropout = 0;                                  // of what A reads, in training
  uint64_t place = 0;                                 // of its draws (ops/dropout.h)

  explicit operator bool() const { return static_cast<bool>(low_rank); }
};

/// A projection and its bias: y = x · Wᵀ + b.
struct Linear {
  tensor::Weight weight;  // [outputs, inputs]
  Vector bias;
  Lora lora;
};

/// What the list says of a tensor.
struct ListedTensor {
  std::string path;
  Place place;
  // The router: evaluated in f32 always, so a quantised one is decoded to f32 when it is bound.
  bool decoded = false;
  // Not trained by gradients, so not counted among the parameters (a router's selection bias).
  bool buffer = false;
  // In how many parts its rows come (heads, groups): some files have them as a dimension of their own.
  int64_t parts = 1;
  // Some files keep two stacks in one, by item (kv_b of latent attention): the other's rows there.
  int64_t merged_with = 0;
};

/// A walk that may point weights elsewhere: binding, moving, repacking.
class TensorVisitor {
 public:
  using Tensor = ListedTensor;
  virtual ~TensorVisitor() = default;

  /// [rows, cols]
  virtual void matrix(const Tensor& tensor, int64_t rows, int64_t cols, tensor::Weight& slot) = 0;
  /// [n]
  virtual void vector(const Tensor& tensor, int64_t n, Vector& slot) = 0;
  /// [experts, rows, cols]: one weight for each expert (or head), wherever it lies.
  virtual void stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols,
                     std::vector<tensor::Weight>& slots) = 0;

  /// [rows, cols] of parameters that no matmul reads (taps of a convolution, A_log): decoded to f32 as a vector is.
  virtual void table(const Tensor& tensor, int64_t rows, int64_t cols, Vector& slot) {
    vector(tensor, rows * cols, slot);
  }

  /// [experts, n]: a vector for each expert.
  virtual void vectors(const Tensor& tensor, int64_t experts, int64_t n, Vector& slot) {
    table(tensor, experts, n, slot);
  }

  /// Where a LoRA may be attached to the weight of this path: called after the weight by layers whose forward pass
  /// reads the LoRA, and by no others.
  virtual void lora(const Tensor& tensor, int64_t rows, int64_t cols, Lora& slot) {
    (void)tensor, (void)rows, (void)cols, (void)slot;
  }
  /// The same for a stack: one for each expert.
  virtual void loras(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols,
                     std::vector<ops::LowRank>& slots) {
    (void)tensor, (void)experts, (void)rows, (void)cols, (void)slots;
  }

  /// A projection that reads adapters: as linear().
  void adaptable(const std::string& path, Place place, int64_t rows, int64_t cols, bool bias, Linear& slot) {
    linear(path, place, rows, cols, bias, slot);
    lora({path, place}, rows, cols, slot.lora);
  }

  /// A projection: `path` for the weight, `path`.bias for the bias if it has one.
  void linear(const std::string& path, Place place, int64_t rows, int64_t cols, bool bias, Linear& slot) {
    matrix({path, place}, rows, cols, slot.weight);
    if (bias) vector({path + ".bias", place}, rows, slot.bias);
  }
};

/// A walk that only looks: counting, saving, explaining. What a reader does not care about it need not mention.
class TensorReader {
 public:
  using Tensor = ListedTensor;
  virtual ~TensorReader() = default;

  // As TensorVisitor's.
  virtual void matrix(const Tensor& tensor, int64_t rows, int64_t cols, const tensor::Weight& slot);
  virtual void vector(const Tensor& tensor, int64_t n, const Vector& slot);
  virtual void stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols,
                     const std::vector<tensor::Weight>& slots);
  virtual void table(const Tensor& tensor, int64_t rows, int64_t cols, const Vector& slot);
  virtual void vectors(const Tensor& tensor, int64_t experts, int64_t n, const Vector& slot);
  virtual void lora(const Tensor& tensor, int64_t rows, int64_t cols, const Lora& slot);
  virtual void loras(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols,
                     const std::vector<ops::LowRank>& slots);
};

/// Shows a reader what a layer's visit() lists.
class Reading final : public TensorVisitor {
 public:
  explicit Reading(TensorReader& reader) : reader_(reader) {}
  void matrix(const Tensor& tensor, int64_t rows, int64_t cols, tensor::Weight& slot) override;
  void vector(const Tensor& tensor, int64_t n, Vector& slot) override;
  void stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols,
             std::vector<tensor::Weight>& slots) override;
  void table(const Tensor& tensor, int64_t rows, int64_t cols, Vector& slot) override;
  void vectors(const Tensor& tensor, int64_t experts, int64_t n, Vector& slot) override;
  void lora(const Tensor& tensor, int64_t rows, int64_t cols, Lora& slot) override;
  void loras(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols,
             std::vector<ops::LowRank>& slots) override;

 private:
  TensorReader& reader_;
};

}  // namespace coterie::layers
