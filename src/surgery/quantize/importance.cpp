#include "surgery/quantize/importance.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "checkpoint/tensor_sink.h"
#include "surgery/write/file_plan.h"

namespace coterie::surgery {

namespace {

using base::ErrorKind;
using checkpoint::TensorInfo;
using tensor::DType;

constexpr std::string_view kSums = ".in_sum2", kCounts = ".counts";

/// Every weight under the name GGUF gives it. Of several weights that GGUF has as one tensor (q, k and v) the first
/// stands for all: they read the same rows.
class Names : public layers::TensorReader {
 public:
  using Found = std::function<void(const std::string& path, const std::string& name, int64_t items, int64_t cols)>;
  Names(const families::NameTable& names, Found found) : names_(names), found_(std::move(found)) {}

  void matrix(const Tensor& tensor, int64_t, int64_t cols, const tensor::Weight&) override {
    // Routers are not rounded, and the head is not run: it would cost more than all it could tell.
    const bool head = tensor.place == layers::Place::output_embeddings || tensor.path == "embedding";
    if (tensor.place != layers::Place::router && !head) add(tensor.path, 1, cols);
  }
  void stack(const Tensor& tensor, int64_t items, int64_t, int64_t cols, const std::vector<tensor::Weight>&) override {
    add(tensor.path, items, cols);
  }

 private:
  void add(const std::string& path, int64_t items, int64_t cols) {
    const auto [pattern, layer, item] = families::path_pattern(path);
    const auto* names = names_.find(pattern);
    if (!names) base::fail(ErrorKind::unsupported, "GGUF", "there is no name for {}", path);
    found_(path, families::expand(names->front().pattern, layer, -1, item), items, cols);
  }
  const families::NameTable& names_;
  Found found_;
};

int64_t number(const checkpoint::Metadata& metadata, std::string_view key) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) return 0;
  if (const auto* s = std::get_if<int64_t>(&found->second)) return *s;
  if (const auto* u = std::get_if<uint64_t>(&found->second)) return static_cast<int64_t>(*u);
  return 0;
}

std::span<const float> floats_of(const TensorInfo& tensor, const std::string& where) {
  if (tensor.dtype != DType::f32)
    base::fail(ErrorKind::bad_input, where + ": " + tensor.name, "is {}: expected f32", tensor::name(tensor.dtype));
  return {reinterpret_cast<const float*>(tensor.bytes.data()), tensor.bytes.size() / sizeof(float)};
}

}  // namespace

void Importance::add(const Importance& other) {
  for (const auto& [name, theirs] : other.entries) {
    const auto [found, fresh] = entries.try_emplace(name, theirs);
    if (fresh) continue;
    Entry& ours = found->second;
    if (ours.items != theirs.items || ours.square_sums.size() != theirs.square_sums.size())
      base::fail(ErrorKind::bad_input, name, "{} times {} columns and {} times {}: these are of different models",
                 ours.items, ours.cols(), theirs.items, theirs.cols());
    for (size_t i = 0; i < ours.square_sums.size(); ++i) ours.square_sums[i] += theirs.square_sums[i];
    for (size_t i = 0; i < ours.rows.size(); ++i) ours.rows[i] += theirs.rows[i];
  }
  texts.insert(texts.end(), other.texts.begin(), other.texts.end());
  chunks += other.chunks;
  chunk_tokens = std::max(chunk_tokens, other.chunk_tokens);
}

std::vector<float> Importance::weights(const std::string& tensor, int64_t items, int64_t cols) const {
  const auto found = entries.find(tensor);
  if (found == entries.end()) return {};
  const Entry& entry = found->second;
  if ((items >= 0 && entry.items != items) || entry.cols() != cols)
    base::fail(ErrorKind::bad_input, tensor, "the importance matrix has {} times {} columns, the model {} times {}",
               entry.items, entry.cols(), items, cols);
  std::vector<float> result(entry.square_sums.size());
  for (int64_t item = 0; item < entry.items; ++item) {
    const int64_t rows = entry.rows[static_cast<size_t>(item)];
    if (rows == 0) continue;
    for (int64_t c = 0; c < cols; ++c) {
      const auto i = static_cast<size_t>(item * cols + c);
      result[i] = static_cast<float>(entry.square_sums[i] / static_cast<double>(rows));
    }
  }
  return result;
}

Importance read_importance(const std::filesystem::path& path) {
  const auto source = checkpoint::open_gguf(path);
  const std::string where = path.string();
  const auto type = source->metadata().find("general.type");
  const auto* word = type == source->metadata().end() ? nullptr : std::get_if<std::string>(&type->second);
  if (!word || *word != "imatrix")
    throw base::Error(ErrorKind::bad_input, where, "general.type is not \"imatrix\": this is not an importance matrix",
                      "coterie importance makes one; llama-imatrix's older .dat files are not read");
  Importance importance;
  importance.chunks = number(source->metadata(), "imatrix.chunk_count");
  importance.chunk_tokens = number(source->metadata(), "imatrix.chunk_size");
  if (const auto texts = source->metadata().find("imatrix.datasets"); texts != source->metadata().end())
    if (const auto* list = std::get_if<std::vector<std::string>>(&texts->second)) importance.texts = *list;
  for (const TensorInfo& tensor : source->tensors()) {
    if (tensor.name.ends_with(kCounts)) continue;
    const std::string place = where + ": " + tensor.name;
    if (!tensor.name.ends_with(kSums))
      base::fail(ErrorKind::bad_input, place, "expected names that end in .in_sum2 and .counts");
    const std::string name = tensor.name.substr(0, tensor.name.size() - kSums.size());
    const TensorInfo* counts = source->find(name + std::string(kCounts));
    if (!counts) base::fail(ErrorKind::bad_input, place, "there is no {}{}", name, kCounts);
    const std::span<const float> sums = floats_of(tensor, where), rows = floats_of(*counts, where);
    if (rows.empty() || sums.empty() || sums.size() % rows.size() != 0)
      base::fail(ErrorKind::bad_input, place, "{} sums for {} counts", sums.size(), rows.size());
    Importance::Entry entry;
    entry.items = std::ssize(rows);
    for (const float sum : sums) {
      if (!std::isfinite(sum) || sum < 0)
        base::fail(ErrorKind::bad_input, place, "holds {}: expected finite sums of squares", sum);
      entry.square_sums.push_back(static_cast<double>(sum));
    }
    for (const float count : rows) {
      if (!(count >= 0) || count > 0x1p60f) base::fail(ErrorKind::bad_input, place, "a count of {}", count);
      entry.rows.push_back(std::llround(count));
    }
    importance.entries[name] = std::move(entry);
  }
  if (importance.entries.empty()) base::fail(ErrorKind::bad_input, where, "holds no tensor");
  return importance;
}

void write_importance(const Importance& importance, const std::filesystem::path& path) {
  std::vector<checkpoint::TensorToWrite> tensors;
  int64_t unseen = 0;
  for (const auto& [name, entry] : importance.entries) {
    unseen += entry.unseen();
    const auto put = [&tensors](const std::string& full, const auto& values, tensor::Shape shape) {
      tensors.push_back({full, DType::f32, std::move(shape), [&values](const auto& write) {
                           const std::vector<float> floats(values.begin(), values.end());
                           write(std::as_bytes(std::span(floats)));
                         }});
    };
    put(name + std::string(kSums), entry.square_sums, {entry.items, entry.cols()});
    put(name + std::string(kCounts), entry.rows, {entry.items, 1});
  }
  checkpoint::Metadata metadata;
  metadata["general.type"] = std::string("imatrix");
  metadata["imatrix.datasets"] = importance.texts;
  metadata["imatrix.chunk_count"] = static_cast<uint64_t>(importance.chunks);
  metadata["imatrix.chunk_size"] = static_cast<uint64_t>(importance.chunk_tokens);
  metadata["coterie.imatrix.unseen"] = static_cast<uint64_t>(unseen);
  checkpoint::write_gguf(path, tensors, metadata);
}

ImportanceCounter::ImportanceCounter(const models::Decoder& decoder, const std::string& architecture) {
  const families::NameTable names = gguf_names_to_write(architecture);
  Names visitor(names, [&](const std::string& path, const std::string& name, int64_t items, int64_t cols) {
    const auto [found, fresh] = counted_.entries.try_emplace(name);
    if (!fresh) return;
    Importance::Entry& entry = found->second;
    entry.items = items;
    entry.square_sums.resize(static_cast<size_t>(items * cols));
    entry.rows.resize(static_cast<size_t>(items));
    count(path, entry);
  });
  decoder.read(visitor);
}

}  // namespace coterie::surgery
