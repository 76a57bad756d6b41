#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <span>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <vector>

#include "ops/context.h"
#include "tensor/arena.h"
#include "tensor/buffer.h"
#include "tensor/view.h"

namespace coterie::ops {

/// Where the gradients of parameters are added to: for each piece of parameters in memory one of gradients, laid out
/// alike. What is not listed is frozen, and the work for its gradient is not done. The memory is the caller's.
class ParameterGradients {
 public:
  /// `count` floats from `values` on; their gradients are added to `gradient`. Pieces must not overlap.
  void add(const float* values, int64_t count, float* gradient);
  /// The gradient of the float at this address, or null.
  float* find(const void* address) const;

 private:
  struct Piece {
    int64_t count;
    float* gradient;
  };
  std::map<uintptr_t, Piece> pieces_;  // by address
};

class Reverse;

/// Reverse-mode differentiation of a program that overwrites its memory (Griewank & Walther 2008, "Evaluating
/// Derivatives", chapter 4): the gradient belongs to the memory, not to a value. Each activation in the context's arena
/// has its gradient at the same place in a second arena. The backward step of an op that computed y from x reads
/// the gradient of y, sets it to zero since before the op y held something else, and adds to the gradient of x. So
/// layers reuse and overwrite their scratch as they do in inference; what an op needs of the values it saw, it saves on
/// the tape.
///
///   Tape tape(context.arena, parameters);
///   context.tape = &tape;
///   …forward, which ends in an op that makes the first gradient (next_token_loss)…
///   context.tape = nullptr;
///   tape.backward(context);
///
/// Every op under a tape records a step or refuses; memory must be changed by ops alone. One tape serves one arena,
/// from one thread; the arena must be left alone, but for the forward, until backward has returned.
class Tape {
 public:
  using Step = std::function<void(Reverse&)>;

  Tape(tensor::Arena& activations, const ParameterGradients& parameters)
      : activations_(activations), parameters_(parameters) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // For ops, on the way forward.

  /// A copy that lives until its step has run; made once for several ops that save the same unchanged values.
  tensor::ConstMatrix save(tensor::ConstMatrix x);
  template <typename T>
  const T* save(std::span<const T> values) {
    static_assert(std::is_trivially_copyable_v<T>);
    T* copy = memory_.take<T>(static_cast<int64_t>(values.size()));
    std::copy(values.begin(), values.end(), copy);
    return copy;
  }
  /// Memory of the tape, not initialised, for what an op leaves to its own step.
  tensor::Matrix keep(int64_t rows, int64_t cols) { return memory_.matrix(rows, cols); }
  /// `written`: what the op is about to write or has written.
  void record(std::initializer_list<tensor::ConstMatrix> written, Step step);
  void written(tensor::ConstMatrix memory);

  /// Floats in memory of the caller's (a cache, a recurrent state, values derived from parameters) that ops pass on
  /// from one to another. Their gradient, `count` floats, zero at first, is found by their first address.
  float* outside(const void* address, int64_t count);

  // For decoders and trainers.

  /// Runs forward(context) without recording. In the backward pass its `inputs` are restored to what they are now, it
  /// is run once more with recording, and its backward steps follow at once: activations for time. It must compute the
  /// same again, and `inputs` must hold all it reads of what it, or a later op, overwrites. It is kept until backward
  /// has returned.
  void recompute(Context& context, std::vector<tensor::Matrix> inputs, std::function<void(Context&)> forward);

  /// Runs the steps back, each once. `context`: for the pool and kernels; its arena is not touched. Afterwards the tape
  /// is empty and can record again.
  void backward(const Context& context);
  /// Forgets what was recorded, for a step that is given up.
  void clear();

  /// Bytes held for saved values, gradients and scratch.
  int64_t bytes() const;

 private:
  friend class Reverse;
  struct Saved {
    tensor::ConstMatrix from, copy;
  };
  std::byte* gradient_at(const void* address);
  void run_back(const Context& context, size_t first);

  tensor::Arena& activations_;
  const ParameterGradients& parameters_;
  tensor::Arena memory_{16 << 20}, scratch_;
  std::vector<tensor::Buffer<std::byte>> gradients_;  // of the chunks of activations_
  std::unordered_map<const void*, tensor::Buffer<float>> outside_;
  std::vector<Saved> unchanged_;  // saved values whose origin still holds them
  std::vector<Step> steps_;
};

/// What a step has in the backward pass.
class Reverse {
 public:
  Reverse(Tape& tape, const Context& context);

  /// Without a tape; its arena is the tape's scratch, free again after the step.
  Context& context() { return context_; }
  /// The gradient of an activation, of the same shape.
  tensor::Matrix gradient(tensor::ConstMatrix activation);
  /// The gradient of a parameter, laid out as the weight; without data when it is frozen or not f32.
  tensor::Matrix gradient(const tensor::Weight& weight);
  /// The gradient of a vector of parameters, or of values outside; null for a null or frozen one.
  float* gradient(const float* vector);
  float* outside(const void* address, int64_t count) { return tape_.outside(address, count); }

 private:
  friend class Tape;
  Tape& tape_;
  Context context_;
};

/// At the head of an op that has no backward pass: throws unsupported under a tape.
void refuse_tape(const Context& context, std::string_view op);

}  // namespace coterie::ops
