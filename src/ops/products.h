#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "kernels/gemm.h"
#include "ops/context.h"
#include "tensor/view.h"

// Inside the room: what the backward of matmul, of the experts and of the scans share.
namespace coterie::ops {

/// c (+)= a · b or aᵀ · b, with rows of a or b taken by an index; shapes as kernels::GemmTask says.
struct Product {
  tensor::ConstMatrix a;  // [rows, depth], or by depth [depth, rows]
  const int32_t* a_index = nullptr;
  bool a_by_depth = false;
  tensor::ConstMatrix b;  // [depth, cols]
  const int32_t* b_index = nullptr;
  int64_t depth = 0;
};

/// The kernels of the context's precision: bf16's for bf16, else f32's.
const kernels::GemmKernels& gemm_of(const Context& context);

/// Products that run as one pool job. No result depends on how they are cut.
class Products {
 public:
  /// c += Σ of the chain, in its order; or with `overwrite` c = Σ.
  void add(tensor::Matrix c, std::initializer_list<Product> chain, bool overwrite = false) {
    add(c, std::span(chain.begin(), chain.size()), overwrite);
  }
  void add(tensor::Matrix c, std::span<const Product> chain, bool overwrite = false);
  void run(Context& context);

 private:
  struct Target {
    tensor::Matrix c;
    std::vector<Product> chain;
    bool overwrite;
  };
  std::vector<Target> targets_;
};

/// The task of a product for rows [row, row + rows) and columns [col, col + cols) of its c.
kernels::GemmTask gemm_task(const Product& product, tensor::Matrix c, int64_t row, int64_t rows, int64_t col,
                            int64_t cols);

/// The weight as f32: itself, or decoded to the context's arena.
tensor::ConstMatrix as_floats(Context& context, const tensor::Weight& weight);

/// into[j] += Σ_r x[r, j], added up in one order whatever the threads.
void add_column_sums(Context& context, tensor::ConstMatrix x, float* into);

/// x = 0.
void clear(Context& context, tensor::Matrix x);

}  // namespace coterie::ops
