#include "checkpoint/quantized_source.h"

#include <fmt/format.h>

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "base/memory.h"
#include "checkpoint/quantized_pack.h"
#include "tensor/buffer.h"

namespace coterie::checkpoint {

using base::ErrorKind;
using tensor::DType;
using tensor::Shape;

namespace {

/// The parts of the files' tensors, put together by name.
class Joiner {
 public:
  Joiner(const TensorSource& files, const Quantization& quantization) : files_(files), quantization_(quantization) {
    for (const TensorInfo& info : files.tensors()) join(info);
    for (const TensorInfo& info : files.tensors())
      if (!parts_.contains(info.name) && !wholes_.contains(info.name)) tensors.push_back(info);
    for (auto& [name, whole] : wholes_) {
      Shape shape = {whole.rows, whole.cols};
      if (whole.stacked) shape.insert(shape.begin(), whole.tensor.matrices);
      tensors.push_back({whole.name, whole.tensor.dtype, shape, {}, whole.tensor.columns});
      made.emplace(whole.name, whole.tensor);
    }
  }

  std::vector<TensorInfo> tensors;
  std::unordered_map<std::string, QuantizedTensor> made;
  std::vector<std::unique_ptr<int32_t[]>> orders;  // QuantizedTensor::columns

 private:
  using Order = QuantizedTensor::Order;
  struct Whole {
    std::string name;
    int64_t rows, cols;
    bool stacked;
    QuantizedTensor tensor;
  };

  static bool ends_with(const std::string& name, std::string_view end, std::string& stem) {
    if (!name.ends_with(end)) return false;
    stem = name.substr(0, name.size() - end.size());
    return true;
  }

  void join(const TensorInfo& info) {
    std::string stem;
    const bool words =
        quantization_.method == Quantization::Method::gptq || quantization_.method == Quantization::Method::awq;
    if (info.dtype == DType::f8_e4m3 ||
        (info.dtype == DType::i8 && !quantization_.floats && info.name.ends_with(".weight"))) {
      if (info.dtype == DType::f8_e4m3 ? !quantization_.floats : words)
        base::fail(ErrorKind::unsupported, where(info),
                   "codes of type {} in a checkpoint whose quantization_config is of another type",
                   tensor::name(info.dtype));
      info.dtype == DType::f8_e4m3 ? join_fp8(info) : join_int8(info);
    } else if (ends_with(info.name, ".weight_packed", stem)) {
      join_packed(info, stem);
    } else if (words && ends_with(info.name, ".qweight", stem)) {
      quantization_.method == Quantization::Method::gptq ? join_gptq(info, stem) : join_awq(info, stem);
    }
  }

  std::string where(const TensorInfo& info) const { return files_.file_of(info) + ": " + info.name; }

  const TensorInfo* part(const std::string& name) {
    const TensorInfo* info = files_.find(name);
    if (info) parts_.insert(name);
    return info;
  }
  const TensorInfo& needed_part(const TensorInfo& codes, const std::string& name) {
    const TensorInfo* info = part(name);
    if (!info) base::fail(ErrorKind::not_found, where(codes), "is quantised, and tensor {} is missing", name);
    return *info;
  }
  void expect(const TensorInfo& info, std::initializer_list<DType> dtypes, std::initializer_list<Shape> shapes) const {
    bool known = false;
    for (const DType dtype : dtypes) known |= info.dtype == dtype;
    bool fits = false;
    for (const Shape& shape : shapes) fits |= info.shape == shape;
    if (!known)
      base::fail(ErrorKind::unsupported, where(info), "elements of type {}: expected {}", tensor::name(info.dtype),
                 tensor::name(*dtypes.begin()));
    if (!fits)
      base::fail(ErrorKind::bad_input, where(info), "shape {}: expected {}", tensor::to_string(info.shape),
                 tensor::to_string(*shapes.begin()));
  }

  void add(const TensorInfo& codes, std::string name, const QuantizedTensor& tensor, bool stacked = false) {
    parts_.insert(codes.name);
    if (!wholes_.try_emplace(name, Whole{name, tensor.rows, tensor.cols, stacked, tensor}).second ||
        (name != codes.name && files_.find(name)))
      base::fail(ErrorKind::bad_input, where(codes), "there is a tensor {} as well", name);
  }

  void join_fp8(const TensorInfo& info) {
    QuantizedTensor tensor{.order = Order::fp8};
    const bool stacked = info.shape.size() == 3;
    if (info.shape.size() != 2 && !stacked)
      base::fail(ErrorKind::unsupported, where(info), "8-bit floats of shape {}: expected a matrix",
                 tensor::to_string(info.shape));
    tensor.matrices = stacked ? info.shape[0] : 1;
    tensor.rows = info.shape[info.shape.size() - 2], tensor.cols = info.shape.back();
    const TensorInfo* scales = part(info.name + "_scale_inv");
    if (!scales) scales = &needed_part(info, info.name + "_scale");
    const int64_t rows = quantization_.block_rows, cols = quantization_.block_cols;
    const auto shape = [&](int64_t down, int64_t across) {
      return stacked ? Shape{tensor.matrices, down, across} : Shape{down, across};
    };
    if (rows > 0) {
      tensor.block_rows = rows, tensor.block_cols = cols;
      expect(*scales, {DType::f32, DType::bf16, DType::u8},
             {shape((tensor.rows + rows - 1) / rows, (tensor.cols + cols - 1) / cols)});
    } else if (tensor::element_count(scales->shape) == tensor.matrices) {
      tensor.block_rows = tensor.rows, tensor.block_cols = tensor.cols;
      expect(*scales, {DType::f32, DType::bf16}, {Shape{1}, Shape{}, shape(1, 1), Shape{tensor.matrices}});
    } else {
      tensor.block_rows = 1, tensor.block_cols = tensor.cols;
      expect(*scales, {DType::f32, DType::bf16}, {shape(tensor.rows, 1), Shape{tensor.rows}});
    }
    if (tensor.cols % 64 != 0)
      base::fail(ErrorKind::unsupported, where(info), "rows of {} values: expected a multiple of 64", tensor.cols);
    if (const TensorInfo* fixed = files_.find(stem_of(info.name) + ".input_scale"))
      base::fail(ErrorKind::unsupported, where(*fixed), "activations with fixed scales are not honoured");
    tensor.codes = &info, tensor.scales = scales;
    tensor.dtype = scales->dtype == DType::bf16 ? DType::fp8_64_bf16 : DType::fp8_64;
    add(info, info.name, tensor, stacked);
  }
  static std::string stem_of(const std::string& name) { return name.substr(0, name.rfind('.')); }

  void join_int8(const TensorInfo& info) {
    const std::string stem = stem_of(info.name);
    if (info.shape.size() != 2)
      base::fail(ErrorKind::unsupported, where(info), "integers of shape {}: expected a matrix",
                 tensor::to_string(info.shape));
    QuantizedTensor tensor{.order = Order::int8, .bits = 8, .rows = info.shape[0], .cols = info.shape[1]};
    finish_rows(info, stem, tensor, DType::i8);
    add(info, info.name, tensor);
  }

  void join_packed(const TensorInfo& info, const std::string& stem) {
    const TensorInfo& shape = needed_part(info, stem + ".weight_shape");
    expect(shape, {DType::i64, DType::i32}, {Shape{2}});
    const auto element = [&](int64_t i) {
      int64_t value = 0;
      if (shape.dtype == DType::i64) {
        std::memcpy(&value, shape.bytes.data() + 8 * i, 8);
      } else {
        int32_t small = 0;
        std::memcpy(&small, shape.bytes.data() + 4 * i, 4);
        value = small;
      }
      if (value < 1) base::fail(ErrorKind::bad_input, where(shape), "says {}", value);
      return value;
    };
    const int bits = quantization_.bits;
    QuantizedTensor tensor{.order = Order::packed, .bits = bits, .rows = element(0), .cols = element(1)};
    expect(info, {DType::i32}, {Shape{tensor.rows, words(tensor.cols)}});
    finish_rows(info, stem, tensor, DType::i32);
    add(info, stem + ".weight", tensor);
  }
  int64_t words(int64_t values) const { return (values * quantization_.bits + 31) / 32; }

  /// Scales, zeros and indices of compressed-tensors.
  void finish_rows(const TensorInfo& info, const std::string& stem, QuantizedTensor& tensor, DType zeros_dtype) {
    const TensorInfo& scales = needed_part(info, stem + ".weight_scale");
    tensor.groups = quantization_.group > 0 ? tensor.cols / quantization_.group : 1;
    expect(scales, {DType::f16, DType::bf16}, {Shape{tensor.rows, tensor.groups}});
    if (const TensorInfo* zeros = part(stem + ".weight_zero_point")) {
      expect(*zeros, {zeros_dtype},
             {Shape{zeros_dtype == DType::i8 ? tensor.rows : words(tensor.rows), tensor.groups}});
      tensor.zeros = zeros;
    }
    tensor.codes = &info, tensor.scales = &scales;
    set_format(info, part(stem + ".weight_g_idx"), tensor);
  }

  void join_gptq(const TensorInfo& info, const std::string& stem) {
    const int64_t per_word = 32 / quantization_.bits;
    matrix_of_words(info);
    QuantizedTensor tensor{
        .order = Order::gptq, .bits = quantization_.bits, .rows = info.shape[1], .cols = info.shape[0] * per_word};
    tensor.zeros_less_one = quantization_.zeros_less_one;
    if (tensor.rows % per_word != 0)
      base::fail(ErrorKind::unsupported, where(info), "{} rows: expected a multiple of {}", tensor.rows, per_word);
    finish_columns(info, stem, tensor, part(stem + ".g_idx"));
  }
  void join_awq(const TensorInfo& info, const std::string& stem) {
    matrix_of_words(info);
    QuantizedTensor tensor{.order = Order::awq, .bits = 4, .rows = info.shape[1] * 8, .cols = info.shape[0]};
    finish_columns(info, stem, tensor, nullptr);
  }
  void matrix_of_words(const TensorInfo& info) const {
    if (info.dtype != DType::i32 || info.shape.size() != 2)
      base::fail(ErrorKind::unsupported, where(info), "{} of shape {}: expected i32 of two dimensions",
                 tensor::name(info.dtype), tensor::to_string(info.shape));
  }
  void finish_columns(const TensorInfo& info, const std::string& stem, QuantizedTensor& tensor,
                      const TensorInfo* indices) {
    const TensorInfo &scales = needed_part(info, stem + ".scales"), &zeros = needed_part(info, stem + ".qzeros");
    tensor.groups = quantization_.group > 0 ? tensor.cols / quantization_.group : 1;
    expect(scales, {DType::f16, DType::bf16}, {Shape{tensor.groups, tensor.rows}});
    expect(zeros, {DType::i32}, {Shape{tensor.groups, words(tensor.rows)}});
    tensor.codes = &info, tensor.scales = &scales, tensor.zeros = &zeros;
    set_format(info, indices, tensor);
    add(info, stem + ".weight", tensor);
  }

  /// The format, by the group's length and the scales' type.
  void set_format(const TensorInfo& info, const TensorInfo* indices, QuantizedTensor& tensor) {
    const bool half = tensor.scales->dtype == DType::f16;
    if (tensor.groups < 1 || tensor.cols % tensor.groups != 0 ||
        (quantization_.group > 0 && tensor.cols != tensor.groups * quantization_.group))
      base::fail(ErrorKind::unsupported, where(info), "rows of {} values in groups of {}", tensor.cols,
                 quantization_.group);
    if (indices) {
      expect(*indices, {DType::i32}, {Shape{tensor.cols}});
      const int64_t group = tensor.cols / tensor.groups;
      bool in_order = true;
      for (int64_t c = 0; c < tensor.cols && in_order; ++c) {
        int32_t index = 0;
        std::memcpy(&index, indices->bytes.data() + 4 * c, 4);
        in_order = index == c / group;
      }
      if (!in_order) {
        tensor.indices = indices, tensor.columns = by_group(*indices, tensor);
        if (!tensor.columns) {
          tensor.dtype = half ? DType::f16 : DType::bf16;
          return;
        }
      }
    }
    const int64_t group = tensor.cols / tensor.groups;
    if (group % 32 != 0)
      base::fail(ErrorKind::unsupported, where(info), "{} values share a scale: expected a multiple of 32", group);
    const bool wide = group % 64 == 0;
    if (tensor.bits == 4)
      tensor.dtype =
          half ? (wide ? DType::int4_64_f16 : DType::int4_32_f16) : (wide ? DType::int4_64_bf16 : DType::int4_32_bf16);
    else
      tensor.dtype =
          half ? (wide ? DType::int8_64_f16 : DType::int8_32_f16) : (wide ? DType::int8_64_bf16 : DType::int8_32_bf16);
  }

  /// The columns group by group, as they were when the codes were found (desc_act); null where groups differ in length.
  const int32_t* by_group(const TensorInfo& indices, const QuantizedTensor& tensor) {
    const int64_t group = tensor.cols / tensor.groups;
    std::vector<int64_t> filled(static_cast<size_t>(tensor.groups));
    auto columns = std::make_unique<int32_t[]>(static_cast<size_t>(tensor.cols));
    for (int64_t c = 0; c < tensor.cols; ++c) {
      int32_t index = 0;
      std::memcpy(&index, indices.bytes.data() + 4 * c, 4);
      if (index < 0 || index >= tensor.groups || filled[static_cast<size_t>(index)] == group) return nullptr;
      columns[static_cast<size_t>(index * group + filled[static_cast<size_t>(index)]++)] = static_cast<int32_t>(c);
    }
    return orders.emplace_back(std::move(columns)).get();
  }

  const TensorSource& files_;
  const Quantization quantization_;
  std::set<std::string> parts_;
  std::map<std::string, Whole> wholes_;
};

class QuantizedSource : public TensorSource {
 public:
  QuantizedSource(std::unique_ptr<TensorSource> files, const Quantization& quantization) : files_(std::move(files)) {
    Joiner joiner(*files_, quantization);
    tensors_ = std::move(joiner.tensors), made_ = std::move(joiner.made), orders_ = std::move(joiner.orders);
    for (size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
  }

  Format format() const override { return files_->format(); }
  std::string where() const override { return files_->where(); }
  std::span<const TensorInfo> tensors() const override { return tensors_; }
  const TensorInfo* find(std::string_view name) const override {
    const auto found = index_.find(std::string(name));
    return found == index_.end() ? nullptr : &tensors_[found->second];
  }
  const Metadata& metadata() const override { return files_->metadata(); }
  int64_t file_bytes() const override { return files_->file_bytes(); }
  const TensorSource& stored() const override { return *files_; }
  std::string file_of(const TensorInfo& tensor) const override {
    const auto found = made_.find(tensor.name);
    return files_->file_of(found == made_.end() ? tensor : *found->second.codes);
  }

  std::optional<FilePlace> place_of(std::span<const std::byte> bytes) const override { return files_->place_of(bytes); }

  std::span<const std::byte> load(const TensorInfo& info) const override {
    const auto found = made_.find(info.name);
    if (found == made_.end()) return info.bytes;
    const QuantizedTensor& parts = found->second;
    const std::lock_guard lock(mutex_);
    const auto [place, first] = loaded_.try_emplace(info.name);
    if (first) {
      const int64_t bytes = parts.matrices * parts.rows * tensor::row_bytes(parts.dtype, parts.cols);
      try {
        base::require_memory(bytes, "quantised weights, which are put together in memory", "");
        place->second = tensor::Buffer<std::byte>(bytes);
        put_together(parts, place->second.data());
      } catch (...) {
        loaded_.erase(place);
        throw;
      }
      for (const TensorInfo* part : {parts.codes, parts.scales, parts.zeros, parts.indices})
        if (part) base::give_back(part->bytes);
    }
    return {place->second.data(), static_cast<size_t>(place->second.size())};
  }

 private:
  std::unique_ptr<TensorSource> files_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string, size_t> index_;
  std::unordered_map<std::string, QuantizedTensor> made_;
  std::vector<std::unique_ptr<int32_t[]>> orders_;  // what TensorInfo::columns points to
  mutable std::mutex mutex_;
  mutable std::unordered_map<std::string, tensor::Buffer<std::byte>> loaded_;
};

}  // namespace

std::unique_ptr<TensorSource> quantized_source(std::unique_ptr<TensorSource> files, const Quantization& quantization) {
  return std::make_unique<QuantizedSource>(std::move(files), quantization);
}

}  // namespace coterie::checkpoint
