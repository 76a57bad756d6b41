#include "models/export.h"

#include <fmt/format.h>

#include <functional>
#include <span>

#include "base/error.h"
#include "models/families/family.h"

namespace coterie::models {

namespace {

using checkpoint::TensorToWrite;
using Write = std::function<void(std::span<const std::byte>)>;

void refuse_coarse_router(const std::string& name, tensor::DType dtype) {
  if (too_coarse_for_a_router(dtype))
    throw base::Error(
        base::ErrorKind::unsupported, name,
        fmt::format("a router is not written in {}: below 8 bits it chooses other experts", tensor::name(dtype)),
        "keep it in f32, which is a thousandth of the model");
}

class Exporter : public layers::TensorVisitor {
 public:
  explicit Exporter(const NameTable& names) : names_(names) {}

  void matrix(const Tensor& tensor, int64_t rows, int64_t cols, tensor::Weight& slot) override {
    if (tensor.place == layers::Place::router) refuse_coarse_router(tensor.path, slot.dtype);
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

bool too_coarse_for_a_router(tensor::DType dtype) {
  return tensor::is_block(dtype) && tensor::bits_per_value(dtype) < 8;
}

std::vector<TensorToWrite> tensors_to_write(const Decoder& decoder, const NameTable& names) {
  Exporter exporter(names);
  decoder.visit(exporter);
  return std::move(exporter.result);
}

std::vector<TensorToWrite> tensors_to_write(const checkpoint::TensorSource& source) {
  std::vector<TensorToWrite> result;
  NameTable routers;
  routers.inert = router_patterns();
  for (const checkpoint::TensorInfo& info : source.tensors()) {
    if (routers.is_inert(info.name)) refuse_coarse_router(info.name, info.dtype);
    result.push_back({info.name, info.dtype, info.shape, [bytes = info.bytes](const Write& write) { write(bytes); }});
  }
  return result;
}

}  // namespace coterie::models
