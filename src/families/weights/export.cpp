#include "families/weights/export.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <span>

#include "base/error.h"
#include "families/family.h"
#include "families/names/merged_rows.h"
#include "quant/codec.h"
#include "quant/rows.h"

namespace coterie::families {

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

/// What a weight is written in. One whose columns lie in an order of their own cannot be written as it is held: as the
/// floats that its values are.
tensor::DType written_dtype(const tensor::Weight& weight) {
  if (!weight.columns) return weight.dtype;
  switch (quant::rounding_of(weight.dtype)) {
    case quant::Rounding::f16: return tensor::DType::f16;
    case quant::Rounding::bf16: return tensor::DType::bf16;
    case quant::Rounding::none: break;
  }
  return tensor::DType::f32;
}

/// Rows [begin, end) of a weight as they are written.
void write_rows(const tensor::Weight& weight, int64_t begin, int64_t end, const Write& write) {
  const auto row = static_cast<size_t>(tensor::row_bytes(weight.dtype, weight.cols));
  if (!weight.columns && weight.row_stride == static_cast<int64_t>(row))
    return write({weight.row(begin), static_cast<size_t>(end - begin) * row});
  const tensor::DType dtype = written_dtype(weight);
  std::vector<float> values(weight.columns ? static_cast<size_t>(weight.cols) : 0);
  std::vector<std::byte> bytes(weight.columns ? static_cast<size_t>(tensor::row_bytes(dtype, weight.cols)) : 0);
  for (int64_t r = begin; r < end; ++r) {
    if (!weight.columns) {
      write({weight.row(r), row});
      continue;
    }
    quant::decode_row(weight, r, values.data());
    quant::encode(dtype, values.data(), bytes.data(), weight.cols);
    write(bytes);
  }
}

/// What one tensor of the file is made of: a weight, or the pieces of several that the file has as one.
struct Merged {
  struct Part {
    Piece piece;
    std::vector<tensor::Weight> stack;  // one, or one for each expert
    std::string path;                   // of a stack, and which of its experts the first is
    int64_t first = 0;
  };
  std::vector<Part> parts;
  ReadExpert elsewhere;
  bool transposed = false;
  int64_t groups = 0;  // rows of both parts come in so many groups

  /// Where each row of the file is: part and row of it.
  std::vector<std::pair<size_t, int64_t>> rows_in_groups() const {
    std::vector<std::pair<size_t, int64_t>> rows;
    for (const Part& part : parts) rows.resize(rows.size() + static_cast<size_t>(part.stack[0].rows));
    for (size_t p = 0; p < parts.size(); ++p) {
      const int64_t own = parts[p].stack[0].rows, other = std::ssize(rows) - own;
      for (int64_t r = 0; r < own; ++r)
        rows[static_cast<size_t>(grouped_row(parts[p].piece, r, own, groups, other / groups))] = {p, r};
    }
    return rows;
  }

  bool alternating() const { return parts[0].piece == Piece::even_rows || parts[0].piece == Piece::odd_rows; }

  /// The e-th weight of each part, and the memory of those that are read for the purpose.
  struct Read {
    std::vector<tensor::Weight> weights;
    std::vector<std::vector<float>> floats;
  };
  Read read(size_t e) const {
    Read read;
    for (const Part& part : parts) {
      tensor::Weight weight = part.stack[e];
      if (!weight && weight.rows > 0) {
        base::require(elsewhere != nullptr, "export", "{}: expert {} is not here", part.path, part.first);
        std::vector<float>& floats = read.floats.emplace_back(static_cast<size_t>(weight.rows * weight.cols));
        elsewhere(part.path, part.first + static_cast<int64_t>(e), floats);
        weight = {reinterpret_cast<const std::byte*>(floats.data()), tensor::DType::f32, weight.rows, weight.cols};
      }
      read.weights.push_back(weight);
    }
    return read;
  }

  void write(const Write& write) const {
    if (transposed) return write_columns(write);
    if (is_grouped(parts[0].piece)) {
      for (const auto& [part, r] : rows_in_groups()) write_rows(parts[part].stack[0], r, r + 1, write);
      return;
    }
    for (size_t e = 0; e < parts[0].stack.size(); ++e) {
      const Read of_expert = read(e);
      if (alternating()) {
        for (int64_t r = 0; r < of_expert.weights[0].rows; ++r)
          for (const tensor::Weight& weight : of_expert.weights) write_rows(weight, r, r + 1, write);
        continue;
      }
      for (const tensor::Weight& weight : of_expert.weights) write_rows(weight, 0, weight.rows, write);
    }
  }

  // Column by column, the rows of all parts together.
  void write_columns(const Write& write) const {
    const auto size = static_cast<size_t>(tensor::row_bytes(parts[0].stack[0].dtype, 1));
    std::vector<std::byte> column;
    const auto push = [&](const tensor::Weight& weight, int64_t r, int64_t c) {
      const std::byte* value = weight.row(r) + static_cast<size_t>(c) * size;
      column.insert(column.end(), value, value + size);
    };
    for (size_t e = 0; e < parts[0].stack.size(); ++e) {
      const Read of_expert = read(e);
      for (int64_t c = 0; c < of_expert.weights[0].cols; ++c) {
        column.clear();
        if (alternating()) {
          for (int64_t r = 0; r < of_expert.weights[0].rows; ++r)
            for (const tensor::Weight& weight : of_expert.weights) push(weight, r, c);
        } else {
          for (const tensor::Weight& weight : of_expert.weights)
            for (int64_t r = 0; r < weight.rows; ++r) push(weight, r, c);
        }
        write(column);
      }
    }
  }
};

class Exporter : public layers::TensorReader {
 public:
  Exporter(const NameTable& names, const ReadExpert& elsewhere) : names_(names), elsewhere_(elsewhere) {}

  void matrix(const Tensor& tensor, int64_t rows, int64_t cols, const tensor::Weight& slot) override {
    if (tensor.place == layers::Place::router) refuse_coarse_router(tensor.path, slot.dtype);
    add(tensor, {rows, cols}, {slot}, -1, 0);
  }
  void vector(const Tensor& tensor, int64_t n, const layers::Vector& slot) override { add_floats(tensor, {n}, slot); }
  void table(const Tensor& tensor, int64_t rows, int64_t cols, const layers::Vector& slot) override {
    add_floats(tensor, {rows, cols}, slot);
  }
  void stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols,
             const std::vector<tensor::Weight>& slots) override {
    if (is_of_heads(first_name(tensor.path).piece)) return heads(tensor, slots);
    const Name found = name(tensor.path);
    if (found.in_file.pattern.find("{expert}") == std::string::npos)
      return add(tensor, {experts, rows, cols}, slots, -1, 1);
    for (size_t e = 0; e < slots.size(); ++e) add(tensor, {rows, cols}, {slots[e]}, static_cast<int64_t>(e), 0);
  }

  void vectors(const Tensor& tensor, int64_t experts, int64_t n, const layers::Vector& slot) override {
    std::vector<tensor::Weight> one_each;
    for (int64_t e = 0; e < experts; ++e)
      one_each.emplace_back(reinterpret_cast<const std::byte*>(slot.values.data() + e * n), tensor::DType::f32, n, 1);
    add(tensor, {experts, n}, std::move(one_each), -1, 1);
  }

  std::vector<TensorToWrite> finish() {
    for (const auto& [in_file, place] : merged_) {
      const size_t pieces = place.second->parts.size();
      base::require(place.second->parts[0].piece == Piece::whole || pieces > 1, "export",
                    "{} is only a part of what the file has", in_file);
    }
    return std::move(result_);
  }

 private:
  struct Name {
    NameInFile in_file;
    int64_t layer, item;
  };
  const NameInFile& first_name(const std::string& path) const {
    const std::vector<NameInFile>* names = names_.find(path_pattern(path).pattern);
    base::require(names && !names->empty(), "export", "no name to write {} under", path);
    return names->front();
  }
  Name name(const std::string& path) const {
    const auto [pattern, layer, item] = path_pattern(path);
    return {first_name(path), layer, item};
  }

  /// Keys and values of heads, listed one after the other, into the tensor that holds both.
  void heads(const Tensor& tensor, const std::vector<tensor::Weight>& slots) {
    const NameInFile& in_file = first_name(tensor.path);
    if (in_file.piece == Piece::head_keys) {
      keys_ = slots;
      return;
    }
    const tensor::Weight &key = keys_.front(), &value = slots.front();
    if (key.dtype != value.dtype || tensor::is_block(key.dtype))
      throw base::Error(base::ErrorKind::unsupported, tensor.path,
                        fmt::format("keys of {} and values of {} cannot be written as one tensor",
                                    tensor::name(key.dtype), tensor::name(value.dtype)));
    const auto heads = static_cast<int64_t>(slots.size());
    const auto size = static_cast<size_t>(tensor::info(key.dtype).block_bytes);
    const auto [pattern, layer, item] = path_pattern(tensor.path);
    result_.push_back({expand(in_file.pattern, layer),
                       key.dtype,
                       {heads * (key.cols + value.rows), value.cols},
                       [keys = keys_, values = slots, size](const Write& write) {
                         for (size_t h = 0; h < keys.size(); ++h) {
                           std::vector<std::byte> row(static_cast<size_t>(keys[h].rows) * size);
                           for (int64_t c = 0; c < keys[h].cols; ++c) {
                             for (int64_t r = 0; r < keys[h].rows; ++r)
                               std::memcpy(row.data() + static_cast<size_t>(r) * size,
                                           keys[h].row(r) + static_cast<size_t>(c) * size, size);
                             write(row);
                           }
                           for (int64_t r = 0; r < values[h].rows; ++r)
                             write({values[h].row(r), static_cast<size_t>(values[h].cols) * size});
                         }
                       }});
  }

  void add_floats(const Tensor& tensor, const tensor::Shape& shape, const layers::Vector& slot) {
    const int64_t rows = shape.front(), cols = tensor::element_count(shape) / rows;
    const bool minus_exp = name(tensor.path).in_file.minus_exp;
    base::require(slot.minus_exp || !minus_exp, "export",
                  "{} is held as another function of the parameter than the file's", tensor.path);
    if (slot.minus_exp && !minus_exp) {  // of a GGUF, in a folder
      auto logarithms = std::make_shared<std::vector<float>>();
      for (int64_t i = 0; i < slot.values.size(); ++i)
        logarithms->push_back(static_cast<float>(std::log(-static_cast<double>(slot.values.data()[i]))));
      const auto* values = reinterpret_cast<const std::byte*>(logarithms->data());
      add(tensor, shape, {tensor::Weight(values, tensor::DType::f32, rows, cols)}, -1, 0);
      result_.back().produce = [logarithms, produce = result_.back().produce](const Write& write) { produce(write); };
      return;
    }
    const auto* bytes = reinterpret_cast<const std::byte*>(slot.values.data());
    add(tensor, shape, {tensor::Weight(bytes, tensor::DType::f32, rows, cols)}, -1, 0);
  }

  // `shape` is that of the weight; [experts, rows, cols] for a stack. Pieces are merged along `axis` of it.
  void add(const Tensor& tensor, const tensor::Shape& shape, std::vector<tensor::Weight> weights, int64_t expert,
           size_t axis) {
    const auto [in_file, layer, item] = name(tensor.path);
    const std::string name = expand(in_file.pattern, layer, expert, item);
    const tensor::DType dtype = written_dtype(weights.front());
    for (const tensor::Weight& weight : weights)
      base::require(written_dtype(weight) == dtype, "export", "{}: experts of {} and {} cannot be stacked", name,
                    tensor::name(dtype), tensor::name(written_dtype(weight)));
    const auto found = merged_.find(name);
    if (found == merged_.end()) {
      auto merged = std::make_shared<Merged>();
      merged->parts.push_back({in_file.piece, std::move(weights), tensor.path, std::max<int64_t>(expert, 0)});
      merged->elsewhere = elsewhere_;
      merged->groups = tensor.parts;
      merged->transposed = in_file.form == Form::transposed || in_file.form == Form::columns_together;
      const tensor::DType held = merged->parts[0].stack[0].dtype;
      if (merged->transposed && tensor::is_block(held))
        base::fail(base::ErrorKind::unsupported, name, "blocks of {} cannot be written transposed", tensor::name(held));
      merged_[name] = {result_.size(), merged};
      result_.push_back({name, dtype, shape_in_file(in_file.form, shape, tensor.parts),
                         [merged](const Write& write) { merged->write(write); }});
      return;
    }
    auto& [place, merged] = found->second;
    TensorToWrite& whole = result_[place];
    base::require(in_file.piece != Piece::whole && (in_file.form == Form::plain || merged->transposed) &&
                      whole.dtype == dtype && merged->parts[0].stack.size() == weights.size() &&
                      merged->parts[0].stack[0].cols == weights[0].cols,
                  "export", "{}: {} does not go with what it is merged with", name, tensor.path);
    whole.shape[merged->transposed ? shape.size() - 1 : axis] += shape[axis];
    merged->parts.push_back({in_file.piece, std::move(weights), tensor.path, std::max<int64_t>(expert, 0)});
    std::stable_sort(merged->parts.begin(), merged->parts.end(),
                     [](const auto& a, const auto& b) { return a.piece < b.piece; });
  }

  const NameTable& names_;
  ReadExpert elsewhere_;
  std::vector<TensorToWrite> result_;
  std::map<std::string, std::pair<size_t, std::shared_ptr<Merged>>> merged_;
  std::vector<tensor::Weight> keys_;  // of heads whose values come next
};

}  // namespace

bool too_coarse_for_a_router(tensor::DType dtype) {
  return tensor::is_block(dtype) && tensor::bits_per_value(dtype) < 8;
}

std::vector<TensorToWrite> tensors_to_write(const models::Decoder& decoder, const NameTable& names,
                                            const ReadExpert& elsewhere) {
  Exporter exporter(names, elsewhere);
  decoder.read(exporter);
  return exporter.finish();
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

}  // namespace coterie::families
