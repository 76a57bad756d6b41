#include "lens/trace.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/json.h"

namespace coterie::lens {

namespace {

using base::ErrorKind;
using tensor::DType;

constexpr std::string_view kFormat = "coterie.trace.1";
static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

std::span<const std::byte> bytes_of(const auto& values) { return std::as_bytes(std::span(values)); }

}  // namespace

TraceWriter::TraceWriter(const std::filesystem::path& path, RouterShape shape, int64_t tokens,
                         const std::map<std::string, std::string>& metadata)
    : recorder_(std::move(shape)), all_(tokens), file_(path) {
  // A flush takes as long as the small model needs for some hundred tokens (docs/performance.md).
  file_.skip_flush();
  const RouterShape& s = recorder_.shape();
  base::Json header = {{"__metadata__", metadata}};
  header["__metadata__"]["format"] = kFormat;
  int64_t at = 0;
  const auto place = [&](const char* name, const char* type, int64_t width, std::vector<int64_t> dims) {
    int64_t size = width;
    for (const int64_t d : dims) size *= d;
    header[name] = {{"dtype", type}, {"shape", dims}, {"data_offsets", {at, at + size}}};
    begins_[name] = at, at += size;
  };
  // The widest first, as the reference library orders them: each is aligned to its element.
  place("weights", "F32", 4, {tokens, s.count(), s.choices});
  place("entropy", "F32", 4, {tokens, s.count()});
  for (const char* name : {"ids", "sequence", "position"}) place(name, "I32", 4, {tokens});
  place("layers", "I32", 4, {s.count()});
  place("width", "I32", 4, {s.count()});
  place("experts", "I16", 2, {tokens, s.count(), s.choices});
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const auto length = static_cast<uint64_t>(text.size());
  file_.write(std::as_bytes(std::span(&length, 1)));
  file_.write(text);
  const int64_t data = file_.position();
  for (auto& [name, begin] : begins_) begin += data;
  bytes_ = data + at;
  file_.write_at(begins_["layers"], bytes_of(s.layers));
  file_.write_at(begins_["width"], bytes_of(s.experts));
}

template <typename T>
void TraceWriter::put(const std::string& name, int64_t row, std::span<const T> values) {
  file_.write_at(begins_.at(name) + row * static_cast<int64_t>(sizeof(T)), std::as_bytes(values));
}

void TraceWriter::add(std::span<const int32_t> ids, int64_t sequence, int64_t first) {
  const int64_t n = std::ssize(ids), kept = std::ssize(ids_);
  base::require(recorder_.tokens() == kept + n && written_ + kept + n <= all_, "trace",
                "{} tokens were observed of {}; {} of {} before", recorder_.tokens() - kept, n, written_ + kept, all_);
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  sequence_.insert(sequence_.end(), ids.size(), static_cast<int32_t>(sequence));
  for (int64_t i = 0; i < n; ++i) position_.push_back(static_cast<int32_t>(first + i));
  if (std::ssize(ids_) >= kTokensKept) write();
}

void TraceWriter::write() {
  const int64_t n = std::ssize(ids_), count = recorder_.shape().count(), k = recorder_.shape().choices;
  put<int32_t>("ids", written_, ids_);
  put<int32_t>("sequence", written_, sequence_);
  put<int32_t>("position", written_, position_);
  const Choices& choices = recorder_.choices();
  put<int16_t>("experts", written_ * count * k, choices.experts);
  put<float>("weights", written_ * count * k, choices.weights);
  put<float>("entropy", written_ * count, choices.entropy);
  written_ += n;
  recorder_.clear();
  ids_.clear(), sequence_.clear(), position_.clear();
}

void TraceWriter::commit() {
  write();
  base::require(written_ == all_, "trace", "{} of {} tokens were written", written_, all_);
  file_.commit();
}

namespace {

template <typename T>
std::span<const T> values_of(const checkpoint::TensorSource& source, const std::string& where, const std::string& name,
                             DType dtype, const tensor::Shape& shape) {
  const checkpoint::TensorInfo* found = source.find(name);
  if (!found)
    throw base::Error(ErrorKind::bad_input, where, fmt::format("has no tensor \"{}\"", name),
                      "expected a file that coterie trace wrote");
  bool fits = found->dtype == dtype && found->shape.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || shape[i] == found->shape[i];
  if (!fits)
    base::fail(ErrorKind::bad_input, where + ": " + name, "is {} of shape {}, expected {} of shape {} (-1: any)",
               tensor::name(found->dtype), tensor::to_string(found->shape), tensor::name(dtype),
               tensor::to_string(shape));
  return {reinterpret_cast<const T*>(found->bytes.data()), found->bytes.size() / sizeof(T)};
}

}  // namespace

Trace::Trace(const std::filesystem::path& path) : source_(checkpoint::open_safetensors(path)) {
  const std::string where = path.string();
  const auto layers = values_of<int32_t>(*source_, where, "layers", DType::i32, {-1});
  const auto width = values_of<int32_t>(*source_, where, "width", DType::i32, {std::ssize(layers)});
  ids = values_of<int32_t>(*source_, where, "ids", DType::i32, {-1});
  const int64_t n = std::ssize(ids), count = std::ssize(layers);
  sequence = values_of<int32_t>(*source_, where, "sequence", DType::i32, {n});
  const auto position = values_of<int32_t>(*source_, where, "position", DType::i32, {n});
  experts = values_of<int16_t>(*source_, where, "experts", DType::i16, {n, count, -1});
  shape.layers.assign(layers.begin(), layers.end()), shape.experts.assign(width.begin(), width.end());
  shape.choices = source_->find("experts")->shape[2];
  weights = values_of<float>(*source_, where, "weights", DType::f32, {n, count, shape.choices});
  entropy = values_of<float>(*source_, where, "entropy", DType::f32, {n, count});
  if (n == 0 || count == 0 || shape.choices == 0) base::fail(ErrorKind::bad_input, where, "holds no choice");
  for (int64_t i = 0; i < count; ++i)
    if (layers[static_cast<size_t>(i)] < 0 || width[static_cast<size_t>(i)] < 1 ||
        (i > 0 && layers[static_cast<size_t>(i)] <= layers[static_cast<size_t>(i - 1)]))
      base::fail(ErrorKind::bad_input, where + ": layers", "are not ascending numbers of blocks with experts");
  for (int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<size_t>(i);
    const bool begins = i == 0 || sequence[at] != sequence[at - 1];
    if (sequence[at] != std::ssize(sequence_begin) - (begins ? 0 : 1) ||
        position[at] != (begins ? 0 : position[at - 1] + 1))
      base::fail(ErrorKind::bad_input, where,
                 "token {} is at position {} of sequence {}: expected sequences one after the "
                 "other, each from its beginning",
                 i, position[at], sequence[at]);
    if (begins) sequence_begin.push_back(i);
  }
  sequence_begin.push_back(n);
  for (size_t i = 0; i < experts.size(); ++i) {
    const size_t layer = i / static_cast<size_t>(shape.choices) % static_cast<size_t>(count);
    if (experts[i] < -1 || experts[i] >= width[layer])
      base::fail(ErrorKind::bad_input, where + ": experts", "token {} went to expert {} of {}",
                 i / static_cast<size_t>(shape.choices * count), experts[i], width[layer]);
    if (!std::isfinite(weights[i])) base::fail(ErrorKind::bad_input, where + ": weights", "holds {}", weights[i]);
  }
}

Replay::Replay(const Trace& trace, const RouterShape& model) : trace_(trace) {
  if (trace.shape.layers != model.layers || trace.shape.experts != model.experts || trace.shape.choices > model.choices)
    base::fail(
        ErrorKind::bad_input, "trace",
        "has {} layers with routers of {} experts and {} choices, the model {} of {} and {}: it is of another model",
        trace.shape.count(), trace.shape.experts.front(), trace.shape.choices, model.count(), model.experts.front(),
        model.choices);
  for (int64_t i = 0; i < trace.shape.count(); ++i) index_[trace.shape.layers[static_cast<size_t>(i)]] = i;
}

void Replay::choices(int64_t layer, int64_t first_position, int64_t rows, std::span<int32_t> ids,
                     std::span<float> weights) const {
  const int64_t at = index_.at(layer), count = trace_.shape.count(), k = trace_.shape.choices;
  const int64_t places = std::ssize(ids) / rows;
  std::fill(ids.begin(), ids.end(), -1);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t from = ((first_ + first_position + r) * count + at) * k;
    for (int64_t c = 0; c < k; ++c) {
      const int16_t expert = trace_.experts[static_cast<size_t>(from + c)];
      if (expert < 0) break;
      base::require(c < places, "replay", "{} places for a token's experts", places);
      ids[static_cast<size_t>(r * places + c)] = expert;
      weights[static_cast<size_t>(r * places + c)] = trace_.weights[static_cast<size_t>(from + c)];
    }
  }
}

}  // namespace coterie::lens
