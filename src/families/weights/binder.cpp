#include "families/weights/binder.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <span>

#include "base/error.h"
#include "base/memory.h"
#include "families/names/merged_rows.h"
#include "families/weights/export.h"
#include "models/owned_experts.h"
#include "quant/codec.h"
#include "quant/rows.h"

namespace coterie::families {

namespace {

using base::Error;
using base::ErrorKind;
using checkpoint::TensorInfo;
using tensor::DType;
using tensor::Shape;
using tensor::Weight;

class Binder : public layers::TensorVisitor {
 public:
  Binder(const checkpoint::TensorSource& source, const NameTable& table, const OwnsExpert& owns)
      : source_(source), table_(table), owns_(owns) {}

  void matrix(const Tensor& tensor, int64_t rows, int64_t cols, Weight& slot) override {
    const Found found = find(tensor.path, 1);
    const TensorInfo& info = *found.tensors.front();
    if (is_grouped(found.piece)) return gather(info, found.piece, tensor, rows, cols, slot);
    const int64_t in_file = rows_in_file(found.piece, rows, info);
    Shape expected = shape_in_file(found.form, {in_file, cols}, tensor.parts);
    // A projection to one output is a vector in GGUF.
    if (rows == 1 && found.piece == Piece::whole && info.shape.size() == 1) expected = {cols};
    check(info, expected);
    slot = piece_of(weight_of(info, in_file, cols), found.piece, rows);
    if (tensor.decoded && is_block(info.dtype)) slot = decode(slot, info.name);
  }

  void vector(const Tensor& tensor, int64_t n, layers::Vector& slot) override { decode(tensor, {n}, slot); }
  void table(const Tensor& tensor, int64_t rows, int64_t cols, layers::Vector& slot) override {
    decode(tensor, {rows, cols}, slot);
  }

  void stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols, std::vector<Weight>& slots) override {
    const std::vector<char> owned = owned_of(tensor, experts);
    const Found found = find(tensor.path, experts, owned);
    if (is_of_heads(found.piece)) return heads(*found.tensors.front(), found.piece, experts, rows, cols, tensor, slots);
    const int64_t in_file = rows_in_file(found.piece, rows, *found.tensors.front());
    slots.clear();
    if (found.per_expert) {
      for (size_t e = 0; e < found.tensors.size(); ++e) {
        const TensorInfo* const info = found.tensors[e];
        if (!owned[e]) {
          slots.push_back(models::weight_elsewhere(info->dtype));
          continue;
        }
        check(*info, {in_file, cols});
        slots.push_back(piece_of(weight_of(*info, in_file, cols), found.piece, rows));
      }
      return;
    }
    const TensorInfo& info = *found.tensors.front();
    if (found.form == Form::mxfp4_pair) {
      slots = pack_mxfp4(info, owned, rows, cols, found.piece);
      return;
    }
    if (count_of(owned) == 0) {
      slots.assign(static_cast<size_t>(experts), models::weight_elsewhere(info.dtype));
      return;
    }
    check(info, shape_in_file(found.form, {experts, in_file, cols}, tensor.parts));
    if (found.form == Form::transposed || found.form == Form::columns_together) {
      slots = transpose(info, owned, rows, cols, found.piece);
      return;
    }
    const Weight all = weight_of(info, experts * in_file, cols);
    for (int64_t e = 0; e < experts; ++e)
      slots.push_back(owned[static_cast<size_t>(e)]
                          ? piece_of(all.row_range(e * in_file, (e + 1) * in_file), found.piece, rows)
                          : models::weight_elsewhere(info.dtype));
  }

  void vectors(const Tensor& tensor, int64_t experts, int64_t n, layers::Vector& slot) override {
    const Found found = find(tensor.path, 1);
    const TensorInfo& info = *found.tensors.front();
    const int64_t in_file = rows_in_file(found.piece, n, info);
    check(info, {experts, in_file});
    if (is_block(info.dtype)) refuse_dtype(info);
    slot.values = tensor::Buffer<float>(experts * n);
    for (int64_t e = 0; e < experts; ++e) {
      // A column of values, of which the piece is taken as of rows.
      const Weight all =
          Weight(info.bytes.data(), info.dtype, experts * in_file, 1).row_range(e * in_file, (e + 1) * in_file);
      const Weight part = piece_of(all, found.piece, n);
      for (int64_t i = 0; i < n; ++i) quant::decode(info.dtype, part.row(i), slot.values.data() + e * n + i, 1);
    }
  }

  /// Fused tensors whose parts do not add up to their rows: of another number of heads, say.
  void check_parts() const {
    for (const auto& [info, rows] : taken_)
      if (info->shape.front() != rows)
        base::fail(ErrorKind::bad_input, where(*info), "shape {}: q, k and v of this config have {} rows together",
                   tensor::to_string(info->shape), rows);
  }

  void refuse_surplus() const {
    std::vector<std::string> surplus;
    // Nothing is lost with a tensor of no values: transformers writes those of shared experts of width 0.
    for (const TensorInfo& info : source_.tensors())
      if (tensor::element_count(info.shape) > 0 && !used_.contains(info.name) && !table_.is_inert(info.name))
        surplus.push_back(info.name);
    if (surplus.empty()) return;
    const size_t shown = std::min<size_t>(surplus.size(), 5);
    throw Error(ErrorKind::bad_input, source_.where(),
                fmt::format("{} tensor{} that this model has no place for: {}{}", surplus.size(),
                            surplus.size() == 1 ? "" : "s",
                            fmt::join(surplus.begin(), surplus.begin() + static_cast<int64_t>(shown), ", "),
                            surplus.size() > shown ? ", …" : ""),
                "the config may be of another model, or say fewer layers or experts than the file holds");
  }

  /// The tied head, when the file stores it too: it must repeat the embedding.
  void check_duplicate_head(const Weight& embedding) {
    const std::vector<NameInFile>* names = table_.find("head");
    const TensorInfo* head = names ? source_.find(names->front().pattern) : nullptr;
    if (!head || used_.contains(head->name)) return;
    check(*head, {embedding.rows, embedding.cols});
    if (head->dtype == embedding.dtype && std::equal(head->bytes.begin(), head->bytes.end(), embedding.data))
      used_.insert(head->name);
  }

  models::Binding result;

 private:
  struct Found {
    std::vector<const TensorInfo*> tensors;  // one, or one for each expert
    Piece piece = Piece::whole;
    bool minus_exp = false;
    Form form = Form::plain;
    bool per_expert = false;
    bool negated = false;
  };

  static Weight weight_of(const TensorInfo& info, int64_t rows, int64_t cols) {
    Weight weight(info.bytes.data(), info.dtype, rows, cols);
    weight.columns = info.columns;
    return weight;
  }

  // Row r of the piece is this row of the file's.
  static int64_t row_in_file(Piece piece, int64_t r, int64_t rows) {
    switch (piece) {
      case Piece::even_rows: return 2 * r;
      case Piece::odd_rows: return 2 * r + 1;
      case Piece::second_half: return rows + r;
      default: return r;
    }
  }

  /// [experts]: which of a stack are to be bound; of the others the names and shapes are looked at alone.
  std::vector<char> owned_of(const Tensor& tensor, int64_t experts) const {
    std::vector<char> owned(static_cast<size_t>(experts), 1);
    if (tensor.place != layers::Place::experts || !owns_) return owned;
    const int64_t layer = path_pattern(tensor.path).layer;
    for (int64_t e = 0; e < experts; ++e) owned[static_cast<size_t>(e)] = owns_(layer, e, experts);
    return owned;
  }
  static int64_t count_of(const std::vector<char>& owned) { return std::count(owned.begin(), owned.end(), 1); }

  /// The values of a file's [E, cols, rows] as weights of the binding's own, of the experts that are owned.
  std::vector<Weight> transpose(const TensorInfo& info, const std::vector<char>& owned, int64_t rows, int64_t cols,
                                Piece piece) {
    const int64_t experts = std::ssize(owned);
    const int64_t in_file = rows_in_file(piece, rows, info);
    if (is_block(info.dtype)) refuse_dtype(info);
    const auto size = static_cast<size_t>(tensor::row_bytes(info.dtype, 1));
    std::byte* target = own(count_of(owned) * rows * cols * static_cast<int64_t>(size));
    std::vector<Weight> weights;
    for (int64_t e = 0; e < experts; ++e) {
      if (!owned[static_cast<size_t>(e)]) {
        weights.push_back(models::weight_elsewhere(info.dtype));
        continue;
      }
      weights.emplace_back(target, info.dtype, rows, cols);
      for (int64_t r = 0; r < rows; ++r) {
        const std::byte* source =
            info.bytes.data() + static_cast<size_t>(e * cols * in_file + row_in_file(piece, r, rows)) * size;
        for (int64_t c = 0; c < cols; ++c, target += size, source += static_cast<size_t>(in_file) * size)
          std::copy_n(source, size, target);
      }
    }
    return weights;
  }

  /// Published MXFP4, nibbles and exponents apart, as the blocks that kernels read: an exponent, then 16 bytes that
  /// hold value i low and value i + 16 high. Exact; the nibbles only move.
  std::vector<Weight> pack_mxfp4(const TensorInfo& nibbles, const std::vector<char>& owned, int64_t rows, int64_t cols,
                                 Piece piece) {
    const int64_t experts = std::ssize(owned);
    constexpr int64_t kBlock = 32, kBytes = 16;
    std::string name = nibbles.name;
    name.replace(name.rfind("_blocks"), 7, "_scales");
    const TensorInfo* exponents = source_.find(name);
    if (!exponents)
      throw Error(ErrorKind::not_found, source_.where(), fmt::format("tensor {} is missing", name),
                  nibbles.name + " is there, and means nothing without");
    used_.insert(name);
    const int64_t in_file = rows_in_file(piece, rows, nibbles), blocks = cols / kBlock;
    if (cols % kBlock != 0)
      base::fail(ErrorKind::bad_input, where(nibbles), "rows of {} values do not divide into mxfp4 blocks", cols);
    const auto expect = [&](const TensorInfo& info, const Shape& shape) {
      if (info.dtype != DType::u8 || info.shape != shape ||
          static_cast<int64_t>(info.bytes.size()) != tensor::element_count(shape))
        base::fail(ErrorKind::bad_input, where(info), "{} of shape {}: expected u8 of {}", tensor::name(info.dtype),
                   tensor::to_string(info.shape), tensor::to_string(shape));
    };
    expect(nibbles, {experts, in_file, blocks, kBytes});
    expect(*exponents, {experts, in_file, blocks});

    std::byte* target = own(count_of(owned) * rows * tensor::row_bytes(DType::mxfp4, cols));
    std::vector<Weight> weights;
    for (int64_t e = 0; e < experts; ++e) {
      if (!owned[static_cast<size_t>(e)]) {
        weights.push_back(models::weight_elsewhere(DType::mxfp4));
        continue;
      }
      weights.emplace_back(target, DType::mxfp4, rows, cols);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t first = (e * in_file + row_in_file(piece, r, rows)) * blocks;
        const std::byte* source = nibbles.bytes.data() + first * kBytes;
        for (int64_t b = 0; b < blocks; ++b, source += kBytes) {
          *target++ = exponents->bytes[static_cast<size_t>(first + b)];
          for (int64_t i = 0; i < kBytes; ++i) {
            // Value i is nibble i % 2 of byte i / 2.
            const auto nibble = [&](int64_t value) {
              return source[value / 2] >> (value % 2 == 0 ? 0 : 4) & std::byte{15};
            };
            *target++ = nibble(i) | nibble(i + kBytes) << 4;
          }
        }
      }
    }
    return weights;
  }

  /// Bytes that live as long as the binding; refused when they cannot fit.
  std::byte* own(int64_t bytes) {
    base::require_memory(bytes, "weights whose values lie in another order than they are read in",
                         "a GGUF of the model is read as it lies in the file");
    return result.decoded.emplace_back(bytes).data();
  }

  // The first of the names the table gives for the path that the file has.
  Found find(const std::string& path, int64_t experts, const std::vector<char>& owned = {}) {
    const auto [pattern, layer, item] = path_pattern(path);
    const std::vector<NameInFile>* names = table_.find(pattern);
    base::require(names != nullptr, "binder", "the name table has no entry for {}", pattern);
    std::vector<std::string> tried;
    for (const NameInFile& name : *names) {
      Found found{
          {}, name.piece, name.minus_exp, name.form, name.pattern.find("{expert}") != std::string::npos, name.negated};
      const int64_t count = found.per_expert ? experts : 1;
      for (int64_t e = 0; e < count; ++e) {
        const std::string in_file = expand(name.pattern, layer, e, item);
        // What nobody here owns is not put together.
        const bool wanted =
            owned.empty() || (found.per_expert ? owned[static_cast<size_t>(e)] != 0 : count_of(owned) > 0);
        const TensorInfo* info = wanted ? loaded(source_.find(in_file)) : source_.find(in_file);
        if (!info && e > 0)
          throw Error(ErrorKind::not_found, source_.where(), fmt::format("tensor {} is missing", in_file),
                      fmt::format("expert 0 is there; the config says {} experts", experts));
        if (!info) {
          tried.push_back(in_file);
          break;
        }
        used_.insert(info->name);
        found.tensors.push_back(info);
      }
      if (!found.tensors.empty()) return found;
    }
    throw Error(ErrorKind::not_found, source_.where(),
                tried.size() == 1 ? fmt::format("tensor {} is missing ({})", tried.front(), path)
                                  : fmt::format("no tensor for {}; looked for {}", path, fmt::join(tried, ", ")));
  }

  /// The tensor with its bytes, which may have to be made first.
  const TensorInfo* loaded(const TensorInfo* info) {
    if (!info) return nullptr;
    const std::span<const std::byte> bytes = source_.load(*info);
    if (bytes.data() == info->bytes.data()) return info;
    TensorInfo& copy = loaded_.try_emplace(info->name, *info).first->second;
    copy.bytes = bytes;
    return &copy;
  }

  std::string where(const TensorInfo& info) const { return source_.file_of(info) + ": " + info.name; }

  [[noreturn]] void refuse_dtype(const TensorInfo& info) const {
    if (info.dtype == DType::f8_e4m3 || info.dtype == DType::f8_e5m2)
      throw Error(
          ErrorKind::unsupported, where(info),
          fmt::format("8-bit floats ({}) without scales are not supported as weights", tensor::name(info.dtype)),
          "config.json says in quantization_config how they are scaled; without it, use the bf16 checkpoint, or "
          "a GGUF of the model");
    throw Error(ErrorKind::unsupported, where(info),
                fmt::format("elements of type {} cannot be weights here", tensor::name(info.dtype)),
                "of quantised safetensors FP8, GPTQ, AWQ and compressed-tensors are read, as config.json says in "
                "quantization_config; or use a GGUF of the model");
  }

  void check(const TensorInfo& info, const Shape& expected) const {
    if (!tensor::info(info.dtype).weight) refuse_dtype(info);
    if (info.shape != expected)
      base::fail(ErrorKind::bad_input, where(info), "shape {}: expected {}", tensor::to_string(info.shape),
                 tensor::to_string(expected));
    if (expected.back() % tensor::info(info.dtype).block_values != 0)
      base::fail(ErrorKind::bad_input, where(info), "rows of {} values do not divide into {} blocks", expected.back(),
                 tensor::name(info.dtype));
    const int64_t bytes =
        tensor::element_count(expected) / expected.back() * tensor::row_bytes(info.dtype, expected.back());
    base::require(static_cast<int64_t>(info.bytes.size()) == bytes, where(info), "{} bytes in the file, {} expected",
                  info.bytes.size(), bytes);
  }

  void decode(const Tensor& tensor, const Shape& expected, layers::Vector& slot) {
    const Found found = find(tensor.path, 1);
    const TensorInfo& info = *found.tensors.front();
    Shape in_file = expected;
    in_file.front() = rows_in_file(found.piece, expected.front(), info);
    check(info, is_loose(found.form) && without_ones(info.shape) == without_ones(in_file)
                    ? info.shape
                    : shape_in_file(found.form, in_file, tensor.parts));
    if (is_block(info.dtype)) refuse_dtype(info);
    // As a weight with a row for each of the first dimension, of which the piece is taken.
    const int64_t rows = in_file.front(), cols = tensor::element_count(in_file) / rows;
    const Weight part = piece_of(Weight(info.bytes.data(), info.dtype, rows, cols), found.piece, expected.front());
    slot.values = tensor::Buffer<float>(part.rows * cols);
    slot.minus_exp = found.minus_exp;
    for (int64_t r = 0; r < part.rows; ++r) quant::decode(info.dtype, part.row(r), slot.values.data() + r * cols, cols);
    for (int64_t i = 0; found.negated && i < slot.values.size(); ++i) slot.values.data()[i] *= -1;
  }
  static Shape without_ones(Shape shape) {
    std::erase(shape, 1);
    return shape;
  }

  int64_t rows_in_file(Piece piece, int64_t rows, const TensorInfo& info) {
    if (piece == Piece::whole) return rows;
    if (piece != Piece::front && piece != Piece::before_back && piece != Piece::back) return 2 * rows;
    // Each part of a fused tensor knows its own rows only; check_parts() checks the sum.
    taken_[&info] += rows;
    if (info.shape.empty() || info.shape.front() < (piece == Piece::before_back ? 2 * rows : rows))
      base::fail(ErrorKind::bad_input, where(info), "shape {}: too few rows for one of its parts, which has {}",
                 tensor::to_string(info.shape), rows);
    return info.shape.front();
  }

  /// A weight whose rows lie apart in the file.
  void gather(const TensorInfo& info, Piece piece, const Tensor& tensor, int64_t rows, int64_t cols, Weight& slot) {
    const int64_t in_file = rows + tensor.parts * tensor.merged_with;
    check(info, {in_file, cols});
    const Weight all = weight_of(info, in_file, cols);
    const int64_t each = tensor::row_bytes(info.dtype, cols);
    std::byte* const target = own(rows * each);
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(target + r * each, all.row(grouped_row(piece, r, rows, tensor.parts, tensor.merged_with)),
                  static_cast<size_t>(each));
    slot = Weight(target, info.dtype, rows, cols);
    slot.columns = info.columns;
  }

  /// Keys or values of each head, of a tensor [heads * (keys + values), rank] that holds both.
  void heads(const TensorInfo& info, Piece piece, int64_t count, int64_t rows, int64_t cols, const Tensor& tensor,
             std::vector<Weight>& slots) {
    const bool keys = piece == Piece::head_keys;
    const int64_t own = keys ? cols : rows, each = own + tensor.merged_with, rank = keys ? rows : cols;
    check(info, {count * each, rank});
    const Weight all = weight_of(info, count * each, rank);
    slots.clear();
    for (int64_t h = 0; h < count; ++h) {
      const Weight head = all.row_range(h * each, (h + 1) * each);
      slots.push_back(keys ? transposed(head.row_range(0, own)) : head.row_range(each - own, each));
    }
  }

  /// A copy with rows and columns exchanged; blocks become f32, which loses nothing.
  Weight transposed(const Weight& weight) {
    const bool blocks = is_block(weight.dtype);
    const DType dtype = blocks ? DType::f32 : weight.dtype;
    const int64_t size = tensor::info(dtype).block_bytes;
    tensor::Buffer<std::byte>& bytes = result.decoded.emplace_back(weight.rows * weight.cols * size);
    std::vector<float> row(static_cast<size_t>(blocks ? weight.cols : 0));
    for (int64_t r = 0; r < weight.rows; ++r) {
      if (blocks) quant::decode_row(weight, r, row.data());
      const std::byte* from = blocks ? reinterpret_cast<const std::byte*>(row.data()) : weight.row(r);
      for (int64_t c = 0; c < weight.cols; ++c)
        std::memcpy(bytes.data() + (c * weight.rows + r) * size, from + c * size, static_cast<size_t>(size));
    }
    return {bytes.data(), dtype, weight.cols, weight.rows};
  }

  static Weight piece_of(Weight whole, Piece piece, int64_t rows) {
    switch (piece) {
      case Piece::whole:
      case Piece::head_keys:
      case Piece::head_values:
      case Piece::group_front:
      case Piece::group_back:
      case Piece::group_qkv: return whole;
      case Piece::front: return whole.row_range(0, rows);
      case Piece::before_back: return whole.row_range(whole.rows - 2 * rows, whole.rows - rows);
      case Piece::back: return whole.row_range(whole.rows - rows, whole.rows);
      case Piece::first_half: return whole.row_range(0, whole.rows / 2);
      case Piece::second_half: return whole.row_range(whole.rows / 2, whole.rows);
      case Piece::even_rows:
      case Piece::odd_rows:
        Weight part = piece == Piece::even_rows ? whole : whole.row_range(1, whole.rows);
        part.rows = whole.rows / 2, part.row_stride *= 2;
        return part;
    }
    return whole;
  }

  Weight decode(const Weight& weight, const std::string& name) {
    if (too_coarse_for_a_router(weight.dtype))
      result.warnings.push_back(fmt::format(
          "{}: the router is stored as {}; it is evaluated in f32, but its choices were damaged when it was quantised",
          name, tensor::name(weight.dtype)));
    tensor::Buffer<std::byte>& bytes =
        result.decoded.emplace_back(weight.rows * weight.cols * static_cast<int64_t>(sizeof(float)));
    auto* values = reinterpret_cast<float*>(bytes.data());
    for (int64_t r = 0; r < weight.rows; ++r) quant::decode_row(weight, r, values + r * weight.cols);
    return {bytes.data(), DType::f32, weight.rows, weight.cols};
  }

  const checkpoint::TensorSource& source_;
  const NameTable& table_;
  const OwnsExpert& owns_;
  std::set<std::string, std::less<>> used_;
  std::map<std::string, TensorInfo> loaded_;    // those that are not read as they lie in the files
  std::map<const TensorInfo*, int64_t> taken_;  // rows of fused tensors
};

}  // namespace

models::Binding bind(models::Network& network, const checkpoint::TensorSource& source, const NameTable& table,
                     bool tied, const OwnsExpert& owns) {
  Binder binder(source, table, owns);
  network.visit(binder);
  if (tied) binder.check_duplicate_head(network.embedding.table());
  binder.check_parts();
  binder.refuse_surplus();
  network.arrange();
  return std::move(binder.result);
}

}  // namespace coterie::families
