#include "surgery/rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <span>

#include "base/error.h"
#include "base/fnv.h"
#include "base/memory.h"
#include "models/network.h"
#include "quant/codec.h"

namespace coterie::surgery {

namespace {

using checkpoint::TensorToWrite;
using families::NameInFile;
using families::Piece;
using tensor::DType;
using tensor::Weight;
using Write = std::function<void(std::span<const std::byte>)>;

constexpr int64_t kPieceValues = 1 << 20;

/// One tensor of the file: parts that lie one after the other within each expert.
void write_rows(const Rows& part, int64_t expert, threads::Pool& pool, const Write& write) {
  const int64_t bytes = tensor::row_bytes(part.dtype, part.cols);
  if (!part.verbatim.empty()) {
    const Weight& weight = part.verbatim[static_cast<size_t>(expert)];
    if (weight.row_stride == bytes) return write({weight.data, static_cast<size_t>(weight.bytes())});
    for (int64_t r = 0; r < part.rows; ++r) write({weight.row(r), static_cast<size_t>(bytes)});
    return;
  }
  const int64_t step = std::max<int64_t>(kPieceValues / std::max<int64_t>(part.cols, 1), 1);
  std::vector<std::byte> out;
  for (int64_t first = 0; first < part.rows; first += step) {
    const int64_t count = std::min(step, part.rows - first);
    out.resize(static_cast<size_t>(count * bytes));
    pool.split(count, 1, [&](int64_t begin, int64_t end, int) {
      std::vector<float> values(static_cast<size_t>(part.cols));
      for (int64_t r = begin; r < end; ++r) {
        part.fill(expert, first + r, values.data());
        quant::encode(part.dtype, values.data(), out.data() + r * bytes, part.cols);
      }
    });
    write(out);
  }
}

/// Puts the rows of a model's list into the tensors that its files have.
class Planner : public layers::TensorReader {
 public:
  Planner(const families::NameTable& names, const Supply& supply, threads::Pool& pool)
      : names_(names), supply_(supply), pool_(pool) {}

  void matrix(const Tensor& tensor, int64_t rows, int64_t cols, const Weight&) override {
    add(tensor, {rows, cols}, 1);
  }
  void vector(const Tensor& tensor, int64_t n, const layers::Vector&) override { add(tensor, {n}, 1); }
  void table(const Tensor& tensor, int64_t rows, int64_t cols, const layers::Vector&) override {
    add(tensor, {rows, cols}, 1);
  }
  void stack(const Tensor& tensor, int64_t experts, int64_t rows, int64_t cols, const std::vector<Weight>&) override {
    add(tensor, {rows, cols}, experts);
  }
  void vectors(const Tensor& tensor, int64_t experts, int64_t n, const layers::Vector&) override {
    add(tensor, {experts, n}, 1);
  }

  std::vector<TensorToWrite> finish() {
    for (auto& [file, parts] : files_) {
      std::stable_sort(parts->begin(), parts->end(), [](const Part& a, const Part& b) { return a.piece < b.piece; });
      base::require(parts->front().piece == Piece::whole || parts->size() > 1, "tensors", "{} is only a part", file);
    }
    return std::move(result_);
  }

 private:
  struct Part {
    Piece piece;
    Rows rows;
  };
  using Parts = std::shared_ptr<std::vector<Part>>;

  // `shape` is that of one expert.
  void add(const Tensor& tensor, const tensor::Shape& shape, int64_t experts) {
    const auto [pattern, layer, item] = families::path_pattern(tensor.path);
    const std::vector<NameInFile>* names = names_.find(pattern);
    base::require(names && !names->empty(), "tensors", "no name to write {} under", tensor.path);
    const NameInFile& in_file = names->front();
    const bool known_piece =
        in_file.piece == Piece::whole || in_file.piece == Piece::first_half || in_file.piece == Piece::second_half;
    base::require(known_piece && in_file.form == families::Form::plain && !in_file.minus_exp, "tensors",
                  "{} is written in a form that is not made here", tensor.path);
    Rows rows = supply_(tensor);
    base::require(rows.experts == experts && rows.rows * rows.cols == tensor::element_count(shape), "tensors",
                  "{}: [{}, {}, {}] were made for {} of {}", tensor.path, rows.experts, rows.rows, rows.cols, experts,
                  tensor::to_string(shape));
    if (in_file.pattern.find("{expert}") == std::string::npos) {
      tensor::Shape whole = shape;
      if (is_stack(pattern)) whole.insert(whole.begin(), experts);
      return put(families::expand(in_file.pattern, layer, -1, item), in_file.piece, std::move(rows), whole);
    }
    for (int64_t e = 0; e < experts; ++e) {
      // Not a copy of `rows`, whose list of all experts every one of them would hold.
      Rows one{1, rows.rows, rows.cols, rows.dtype, {}, {}};
      if (!rows.verbatim.empty()) one.verbatim = {rows.verbatim[static_cast<size_t>(e)]};
      if (rows.fill) one.fill = [fill = rows.fill, e](int64_t, int64_t row, float* v) { fill(e, row, v); };
      put(families::expand(in_file.pattern, layer, e, item), in_file.piece, std::move(one), shape);
    }
  }

  static bool is_stack(const std::string& pattern) {
    return pattern.find(".experts.") != std::string::npos && !pattern.ends_with(".bias");
  }

  void put(const std::string& name, Piece piece, Rows rows, const tensor::Shape& shape) {
    const auto found = place_.find(name);
    if (found != place_.end()) {
      TensorToWrite& whole = result_[found->second];
      base::require(whole.dtype == rows.dtype && piece != Piece::whole && whole.shape.size() == shape.size(), "tensors",
                    "{}: its parts do not go together", name);
      whole.shape[shape.size() - 2] += shape[shape.size() - 2];
      files_[name]->push_back({piece, std::move(rows)});
      return;
    }
    place_[name] = result_.size();
    const Parts parts = files_[name] = std::make_shared<std::vector<Part>>();
    result_.push_back({name, rows.dtype, shape, [parts, &pool = pool_](const Write& write) {
                         for (int64_t e = 0; e < parts->front().rows.experts; ++e)
                           for (const Part& part : *parts) write_rows(part.rows, e, pool, write);
                       }});
    parts->push_back({piece, std::move(rows)});
  }

  const families::NameTable& names_;
  const Supply& supply_;
  threads::Pool& pool_;
  std::vector<TensorToWrite> result_;
  std::map<std::string, size_t> place_;
  std::map<std::string, Parts> files_;
};

// Whether every value is one of the format's.
bool holds(DType dtype, const float* values, int64_t count) {
  if (dtype == DType::f32) return true;
  std::vector<std::byte> encoded(static_cast<size_t>(tensor::row_bytes(dtype, 1)));
  for (int64_t i = 0; i < count; ++i) {
    if (dtype == DType::f16 && !(values[i] >= -65504.0f && values[i] <= 65504.0f)) return false;
    quant::encode(dtype, values + i, encoded.data(), 1);
    float back = 0;
    quant::decode(dtype, encoded.data(), &back, 1);
    if (back != values[i]) return false;
  }
  return true;
}

}  // namespace

class Weights::Collector : public layers::TensorReader {
 public:
  Collector(Weights& weights, const std::string& where) : all_(weights), where_(where) {}

  void matrix(const Tensor& tensor, int64_t, int64_t, const Weight& slot) override { add(tensor.path, {slot}); }
  void stack(const Tensor& tensor, int64_t, int64_t, int64_t, const std::vector<Weight>& slots) override {
    add(tensor.path, slots);
  }
  void vector(const Tensor& tensor, int64_t n, const layers::Vector& slot) override {
    all_.vectors_[tensor.path] = {&slot, 1, 1, n};
  }
  void table(const Tensor& tensor, int64_t rows, int64_t cols, const layers::Vector& slot) override {
    all_.vectors_[tensor.path] = {&slot, 1, rows, cols};
  }

 private:
  void add(const std::string& path, const std::vector<Weight>& weights) {
    for (const Weight& weight : weights)
      if (tensor::is_block(weight.dtype))
        throw base::Error(base::ErrorKind::unsupported, where_ + ": " + path,
                          fmt::format("is in {}, and safetensors hold floats only", tensor::name(weight.dtype)),
                          "convert the model to a folder in f16, bf16 or f32 first");
    all_.weights_[path] = weights;
  }

  Weights& all_;
  const std::string& where_;
};

Weights::Weights(const models::Decoder& decoder, std::string where) {
  Collector collector(*this, where);
  decoder.read(collector);
  dtype_ = weights_.at("embedding").front().dtype;
}

Rows Weights::rows(std::string_view path, std::optional<DType> dtype) const {
  if (const auto found = weights_.find(path); found != weights_.end()) {
    const std::vector<Weight>& slots = found->second;
    Rows rows{std::ssize(slots), slots.front().rows, slots.front().cols, dtype.value_or(slots.front().dtype), {}};
    const bool same = std::all_of(slots.begin(), slots.end(), [&](const Weight& w) { return w.dtype == rows.dtype; });
    if (same)
      rows.verbatim = slots;
    else
      rows.fill = [&slots](int64_t expert, int64_t row, float* values) {
        const Weight& weight = slots[static_cast<size_t>(expert)];
        quant::decode(weight.dtype, weight.row(row), values, weight.cols);
      };
    return rows;
  }
  const auto found = vectors_.find(path);
  base::require(found != vectors_.end(), "weights", "there is no {}", path);
  const Floats& floats = found->second;
  const float* values = floats.vector->data();
  const DType written = dtype ? *dtype : holds(dtype_, values, floats.rows * floats.cols) ? dtype_ : DType::f32;
  return {1, floats.rows, floats.cols, written, [values, cols = floats.cols](int64_t, int64_t row, float* out) {
            std::copy_n(values + row * cols, cols, out);
          }};
}

const Weight& Weights::matrix(const std::string& path) const {
  const auto found = weights_.find(path);
  base::require(found != weights_.end() && found->second.size() == 1, "weights", "there is no matrix {}", path);
  return found->second.front();
}

const layers::Vector* Weights::vector(const std::string& path) const {
  const auto found = vectors_.find(path);
  return found == vectors_.end() ? nullptr : found->second.vector;
}

namespace {

class TensorCounter : public layers::TensorReader {
 public:
  explicit TensorCounter(const families::NameTable& names) : names_(names) {}
  void matrix(const Tensor& tensor, int64_t, int64_t, const Weight&) override { add(tensor, 1); }
  void vector(const Tensor& tensor, int64_t, const layers::Vector&) override { add(tensor, 1); }
  void stack(const Tensor& tensor, int64_t experts, int64_t, int64_t, const std::vector<Weight>&) override {
    add(tensor, experts);
  }
  int64_t count = 0;

 private:
  void add(const Tensor& tensor, int64_t experts) {
    const std::vector<NameInFile>* names = names_.find(families::path_pattern(tensor.path).pattern);
    const bool each = names && !names->empty() && names->front().pattern.find("{expert}") != std::string::npos;
    count += each ? experts : 1;
  }
  const families::NameTable& names_;
};

}  // namespace

void require_memory_for_list(const models::ModelSpec& spec, const families::NameTable& names, std::string_view hint) {
  // Measured: names, shapes and places of a tensor while it is written, and when the result is opened to be tried.
  constexpr int64_t kTensor = 3000;
  models::Network network(spec);
  TensorCounter counter(names);
  network.read(counter);
  base::require_memory(counter.count * kTensor, fmt::format("a list of {} tensors", counter.count), hint);
}

std::vector<TensorToWrite> tensors_of(const models::ModelSpec& spec, const families::NameTable& names,
                                      const Supply& supply, threads::Pool& pool) {
  models::Network network(spec);
  Planner planner(names, supply, pool);
  network.read(planner);
  return planner.finish();
}

base::Rng row_rng(uint64_t seed, std::string_view name, int64_t expert, int64_t row) {
  uint64_t hash = base::kFnvBegin;  // then one round of splitmix64 for each number
  for (const char c : name) hash = base::fnv_step(hash, static_cast<uint8_t>(c));
  for (const int64_t number : {expert, row}) {
    hash += 0x9e3779b97f4a7c15 * (static_cast<uint64_t>(number) + 1);
    hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9;
    hash = (hash ^ (hash >> 27)) * 0x94d049bb133111eb;
    hash ^= hash >> 31;
  }
  return base::Rng(seed, hash);
}

Rows constant_rows(int64_t rows, int64_t cols, tensor::DType dtype, float value) {
  return {1, rows, cols, dtype, [cols, value](int64_t, int64_t, float* values) { std::fill_n(values, cols, value); }};
}

Rows normal_rows(int64_t rows, int64_t cols, tensor::DType dtype, float deviation, uint64_t seed,
                 const std::string& path) {
  return {1, rows, cols, dtype, [cols, deviation, seed, path](int64_t, int64_t row, float* values) {
            base::Rng rng = row_rng(seed, path, 0, row);
            for (int64_t c = 0; c < cols; ++c) values[c] = deviation * rng.normal();
          }};
}

}  // namespace coterie::surgery
