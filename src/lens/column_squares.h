#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "layers/observer.h"

namespace coterie::lens {

/// What a matrix, or each item of a stack of them, was multiplied with: the sum of the squares of each column, and how
/// many rows there were.
struct Columns {
  int64_t items = 1;                // experts or heads of a stack
  std::vector<double> square_sums;  // [items, cols]
  std::vector<int64_t> rows;        // [items] that were seen
  int64_t cols() const { return static_cast<int64_t>(square_sums.size()) / items; }
  int64_t unseen() const;
};

/// Counts what a decoder's matmuls read. Sums are kept in f64, row by row in the order of the batch.
class ColumnSquares : public layers::Observer {
 public:
  bool wants_products() const override { return true; }
  void product(const layers::Product& product) override;

 protected:
  /// The weight of this path is counted in `columns`, which stay where they are; others are not counted.
  void count(const std::string& path, Columns& columns) { columns_[path] = &columns; }

 private:
  std::map<std::string, Columns*, std::less<>> columns_;
};

}  // namespace coterie::lens
