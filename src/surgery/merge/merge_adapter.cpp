#include "surgery/merge/merge_adapter.h"

#include <algorithm>
#include <functional>
#include <map>
#include <vector>

#include "base/error.h"
#include "checkpoint/tensor_sink.h"
#include "checkpoint/tensor_source.h"
#include "families/family.h"
#include "families/names/merged_rows.h"
#include "layers/tensor_list.h"
#include "quant/codec.h"
#include "quant/rows.h"
#include "surgery/write/folder.h"
#include "surgery/write/model_folder.h"

namespace coterie::surgery {

namespace fs = std::filesystem;
using base::ErrorKind;
using checkpoint::TensorInfo;
using checkpoint::TensorToWrite;

namespace {

/// A weight in the file and its LoRA.
struct Patch {
  tensor::Weight weight;
  ops::LowRank low;
  const float *magnitude = nullptr, *norm = nullptr;
  std::vector<int64_t> rows;  // which of the file's each is, where the weight is a copy of them in another order

  // Row i of the merged weight, [cols] f32.
  void row(int64_t i, float* out) const {
    quant::decode_row(weight, i, out);
    const auto* const a = reinterpret_cast<const float*>(low.a.data);
    const auto* const b = reinterpret_cast<const float*>(low.b.row(i));
    for (int64_t r = 0; r < low.a.rows; ++r) {
      const float factor = low.scale * b[r];
      for (int64_t c = 0; c < weight.cols; ++c) out[c] += factor * a[r * weight.cols + c];
    }
    for (int64_t c = 0; magnitude && c < weight.cols; ++c) out[c] *= magnitude[i] / norm[i];
  }
};

class Finder : public layers::TensorReader {
 public:
  void matrix(const Tensor& tensor, int64_t, int64_t, const tensor::Weight& slot) override {
    matrices_[tensor.path] = slot;
  }
  void stack(const Tensor& tensor, int64_t, int64_t, int64_t, const std::vector<tensor::Weight>& slots) override {
    stacks_[tensor.path] = slots;
  }
  void lora(const Tensor& tensor, int64_t, int64_t, const layers::Lora& slot) override {
    if (slot)
      patches.emplace_back(tensor, Patch{matrices_.at(tensor.path), slot.low_rank, slot.magnitude, slot.norm, {}});
  }
  void loras(const Tensor& tensor, int64_t, int64_t, int64_t, const std::vector<ops::LowRank>& slots) override {
    const std::vector<tensor::Weight>& weights = stacks_.at(tensor.path);
    for (size_t e = 0; e < slots.size(); ++e)
      if (slots[e]) patches.emplace_back(tensor, Patch{weights[e], slots[e], nullptr, nullptr, {}});
  }
  std::vector<std::pair<Tensor, Patch>> patches;  // with what each is of

 private:
  std::map<std::string, tensor::Weight> matrices_;
  std::map<std::string, std::vector<tensor::Weight>> stacks_;
};

using Patches = std::map<const TensorInfo*, std::vector<Patch>>;

/// The tensor whose rows come in groups that hold rows of this weight, and says which they are; null for other weights.
const TensorInfo* find_groups(const families::Model& model, const families::NameTable& names,
                              const layers::ListedTensor& of, Patch& patch) {
  const auto [pattern, layer, item] = families::path_pattern(of.path);
  const std::vector<families::NameInFile>* const found = names.find(pattern);
  if (!found) return nullptr;
  for (const families::NameInFile& name : *found) {
    const TensorInfo* const tensor = families::is_grouped(name.piece)
                                         ? model.source->find(families::expand(name.pattern, layer, -1, item))
                                         : nullptr;
    if (!tensor) continue;
    for (int64_t r = 0; r < patch.weight.rows; ++r)
      patch.rows.push_back(families::grouped_row(name.piece, r, patch.weight.rows, of.parts, of.merged_with));
    return tensor;
  }
  return nullptr;
}

/// Which tensor of the file each adapted weight lies in.
Patches place(const families::Model& model) {
  Finder finder;
  model.decoder->read(finder);
  std::map<const std::byte*, const TensorInfo*> by_address;
  for (const TensorInfo& tensor : model.source->tensors()) by_address[tensor.bytes.data()] = &tensor;
  const families::NameTable names = families::names_for(model.decoder->spec(), *model.source);
  Patches result;
  for (auto& [of, patch] : finder.patches) {
    const auto after = by_address.upper_bound(patch.weight.data);
    const TensorInfo* tensor = after == by_address.begin() ? nullptr : std::prev(after)->second;
    if (tensor && patch.weight.data >= tensor->bytes.data() + tensor->bytes.size()) tensor = nullptr;
    if (!tensor) tensor = find_groups(model, names, of, patch);
    if (!tensor)
      base::fail(ErrorKind::unsupported, of.path,
                 "lies in the file in a form that is copied when it is read; the adapter cannot be merged into it");
    if (tensor::is_block(tensor->dtype))
      throw base::Error(
          ErrorKind::unsupported, tensor->name,
          fmt::format("is {}: rounding to it would lose most of what the adapter adds", tensor::name(tensor->dtype)),
          "merge into the model that was quantised and quantise the result, or run with `adapter`");
    result[tensor].push_back(patch);
  }
  if (result.empty()) base::fail(ErrorKind::bad_input, model.name, "no adapter is attached to it");
  return result;
}

void write_merged(const TensorInfo& tensor, const std::vector<Patch>& patches,
                  const std::function<void(std::span<const std::byte>)>& write) {
  const int64_t cols = tensor.shape.back();
  const auto row_bytes = static_cast<size_t>(tensor::row_bytes(tensor.dtype, cols));
  const size_t rows = tensor.bytes.size() / row_bytes;
  struct Place {
    int32_t patch = -1;
    int64_t row = 0;
  };
  std::vector<Place> places(rows);
  for (size_t p = 0; p < patches.size(); ++p)
    for (int64_t i = 0; i < patches[p].weight.rows; ++i) {
      const auto offset = patches[p].rows.empty()
                              ? static_cast<size_t>(patches[p].weight.row(i) - tensor.bytes.data())
                              : static_cast<size_t>(patches[p].rows[static_cast<size_t>(i)]) * row_bytes;
      base::require(offset % row_bytes == 0 && offset / row_bytes < rows && patches[p].weight.cols == cols,
                    "merge_adapter", "{}: the adapter's rows are not those of the weight", tensor.name);
      places[offset / row_bytes] = {static_cast<int32_t>(p), i};
    }
  constexpr size_t kPiece = 4 << 20;  // bytes
  const size_t rows_a_piece = std::max<size_t>(kPiece / row_bytes, 1);
  std::vector<std::byte> piece(rows_a_piece * row_bytes);
  std::vector<float> values(static_cast<size_t>(cols));
  for (size_t begin = 0; begin < rows; begin += rows_a_piece) {
    const size_t count = std::min(rows_a_piece, rows - begin);
    std::copy_n(tensor.bytes.data() + begin * row_bytes, count * row_bytes, piece.data());
    for (size_t r = 0; r < count; ++r) {
      const Place& at = places[begin + r];
      if (at.patch < 0) continue;
      patches[static_cast<size_t>(at.patch)].row(at.row, values.data());
      quant::encode(tensor.dtype, values.data(), piece.data() + r * row_bytes, cols);
    }
    write({piece.data(), count * row_bytes});
  }
}

void copy_rest(const fs::path& from, const fs::path& to) {
  for (const fs::directory_entry& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    const bool weights = name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") ||
                         name.ends_with(".bin") || name.ends_with(".gguf") || name.starts_with(".");
    if (!entry.is_regular_file() || weights || name == "state.json" || name == kReceipt) continue;
    std::error_code error;
    fs::copy_file(entry.path(), to / name, error);
    if (error) base::fail(ErrorKind::io, name, "cannot be copied to {}: {}", to.string(), error.message());
  }
}

}  // namespace

MergedAdapter merge_adapter(const families::Model& model, const fs::path& out,
                            const std::function<void(std::string_view tensor)>& progress) {
  const bool gguf = model.source->format() == checkpoint::Format::gguf;
  gguf ? refuse_same_file(model.path.path, out) : refuse_existing(out);
  if (gguf != (out.extension() == ".gguf"))
    throw base::Error(
        ErrorKind::bad_input, out.string(),
        gguf ? "is not a .gguf file, and the model is one" : "is a .gguf file, and the model is a folder",
        "merge-adapter writes the form it reads; coterie convert changes a folder into a .gguf file and back");
  const Patches patches = place(model);
  std::vector<TensorToWrite> tensors;
  for (const TensorInfo& tensor : model.source->tensors()) {
    const auto found = patches.find(&tensor);
    tensors.push_back(
        {tensor.name, tensor.dtype, tensor.shape, [&tensor, &patches, found, &progress](const auto& write) {
           if (progress) progress(tensor.name);
           if (found == patches.end()) return write(tensor.bytes);
           write_merged(tensor, found->second, write);
         }});
  }
  const MergedAdapter result{std::ssize(tensors), std::ssize(patches)};
  if (gguf) {
    checkpoint::write_gguf(out, tensors, model.source->metadata());
    return result;
  }
  NewFolder folder(out);
  folder.fill([&](const fs::path& now) {
    copy_rest(model.path.config.parent_path(), now);
    checkpoint::write_safetensors(now / "model.safetensors", tensors, {{"format", "pt"}});
  });
  folder.commit();
  return result;
}

}  // namespace coterie::surgery
