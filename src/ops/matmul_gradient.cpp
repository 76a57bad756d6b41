#include <vector>

#include "ops/gradients.h"
#include "ops/products.h"

namespace coterie::ops {

// dx += dy · W, dW += dyᵀ · x, db += Σ_n dy[n].
void record_matmul(Tape& tape, Precision precision, ConstMatrix x, std::span<const MatmulTarget> given) {
  const ConstMatrix saved = tape.save(x);
  std::vector<MatmulTarget> targets(given.begin(), given.end());
  for (const MatmulTarget& target : targets) tape.written(target.y);
  tape.record({}, [precision, x, saved, targets = std::move(targets)](Reverse& back) {
    Context& context = back.context();
    context.precision = precision;
    if (x.rows == 0) return;
    Products products;
    std::vector<Product> chain;
    for (const MatmulTarget& target : targets) {
      const ConstMatrix dy = back.gradient(target.y);
      if (target.w.rows == 0) continue;
      chain.push_back({dy, nullptr, false, as_floats(context, target.w), nullptr, dy.cols});
      if (const Matrix dw = back.gradient(target.w); dw.data)
        products.add(dw, {{dy, nullptr, true, saved, nullptr, x.rows}});
    }
    products.add(back.gradient(x), chain);
    products.run(context);
    for (const MatmulTarget& target : targets) {
      const Matrix dy = back.gradient(target.y);
      if (float* bias = back.gradient(target.bias)) add_column_sums(context, dy, bias);
      clear(context, dy);
    }
  });
}

}  // namespace coterie::ops
