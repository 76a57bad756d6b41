#include "models/export.h"

#include <functional>
#include <span>

#include "base/error.h"

namespace coterie::models {

namespace {

using checkpoint::TensorToWrite;
using Write = std::function<void(std::span<const std::byte>)>;

class Exporter : public layers::TensorVisitor {
 public:
  explicit Exporter(const NameTable& names) : names_(names) {}

  void matrix(const Tensor& tensor, int64_t rows, int64_t cols, tensor::Weight& slot) override {
    add(name(tensor.path), slot.dtype, {rows, cols}, {slot});
  }
  void vector(const Tensor& tensor, int64_t n, layers::Vector& slot) override {
    const std::span<const std::byte> bytes = std::as_bytes(slot.values.span());
    result.push_back(
        {expand_one(name(tensor.path), -1), tensor::DType::f32, {n}, [bytes](const Write& write) { write(bytes); }});
  }
  void stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols,
             std::vector<tensor::Weight>& slots) override {
    const Name found = name(tensor.path);
    if (found.pattern.find("{expert}") == std::string::npos)
      return add(found, slots.front().dtype, {experts, rows, cols}, slots);
    for (size_t e = 0; e < slots.size(); ++e)
      add(found, slots[e].dtype, {rows, cols}, {slots[e]}, static_cast<int64_t>(e));
  }

  std::vector<TensorToWrite> result;

 private:
  struct Name {
    std::string pattern;
    int64_t layer, item;
  };
  Name name(const std::string& path) const {
    const auto [pattern, layer, item] = path_pattern(path);
    const std::vector<NameInFile>* names = names_.find(pattern);
    base::require(names && names->front().piece == Piece::whole, "export", "no name to write {} under", pattern);
    return {names->front().pattern, layer, item};
  }
  static std::string expand_one(const Name& name, int64_t expert) {
    return expand(name.pattern, name.layer, expert, name.item);
  }

  void add(const Name& name, tensor::DType dtype, const tensor::Shape& shape, std::vector<tensor::Weight> weights,
           int64_t expert = -1) {
    for (const tensor::Weight& weight : weights)
      base::require(weight.dtype == dtype, "export", "{}: experts of {} and {} cannot be stacked", name.pattern,
                    tensor::name(dtype), tensor::name(weight.dtype));
    // Row by row: the rows of a merged or alternating layout do not lie next to each other.
    result.push_back({expand_one(name, expert), dtype, shape, [weights = std::move(weights)](const Write& write) {
                        for (const tensor::Weight& weight : weights) {
                          const auto row = static_cast<size_t>(tensor::row_bytes(weight.dtype, weight.cols));
                          for (int64_t r = 0; r < weight.rows; ++r) write({weight.row(r), row});
                        }
                      }});
  }

  const NameTable& names_;
};

}  // namespace

std::vector<TensorToWrite> tensors_to_write(const Decoder& decoder, const NameTable& names) {
  Exporter exporter(names);
  decoder.visit(exporter);
  return std::move(exporter.result);
}

std::vector<TensorToWrite> tensors_to_write(const checkpoint::TensorSource& source) {
  std::vector<TensorToWrite> result;
  for (const checkpoint::TensorInfo& info : source.tensors())
    result.push_back({info.name, info.dtype, info.shape, [bytes = info.bytes](const Write& write) { write(bytes); }});
  return result;
}

}  // namespace coterie::models
