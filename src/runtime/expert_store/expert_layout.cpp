#include "runtime/expert_store/expert_layout.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "runtime/weight_moves.h"

namespace coterie::runtime {

namespace {

using tensor::Weight;

int64_t up(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

class Finder final : public layers::TensorReader {
 public:
  Finder(const checkpoint::TensorSource& source, FileTable& files) : source_(source), files_(files) {}
  void stack(const Tensor& tensor, int64_t experts, int64_t, int64_t, const std::vector<Weight>& slots) override {
    if (tensor.place != layers::Place::experts) return;
    const size_t dot = tensor.path.rfind('.');
    const std::string path = tensor.path.substr(0, dot), leaf = tensor.path.substr(dot + 1);
    const size_t which = leaf == "gate" ? 0 : leaf == "up" ? 1 : 2;
    base::require(which < 2 || leaf == "down", "expert layout", "a stack of experts called {}", tensor.path);
    if (which == 0 || (which == 1 && !(pending_gate_ && result.layers.back().path == path))) {
      result.layers.push_back({path, std::vector<StoredExpert>(static_cast<size_t>(experts))});
      for (StoredExpert& expert : result.layers.back().experts) expert.part_of = {-1, -1, -1};
    }
    pending_gate_ = which == 0;
    ExpertLayout::Layer& layer = result.layers.back();
    for (size_t e = 0; e < slots.size(); ++e)
      if (slots[e]) add(tensor.path, layer.experts[e], which, slots[e]);
    if (which != 1) return;
    const auto first = std::find_if(slots.begin(), slots.end(), [](const Weight& weight) { return bool(weight); });
    if (first != slots.end()) result.layer_at.emplace(first->data, static_cast<int32_t>(result.layers.size() - 1));
  }

  ExpertLayout result;

 private:
  void add(const std::string& path, StoredExpert& expert, size_t which, const Weight& weight) {
    const std::span<const std::byte> bytes = extent(weight);
    const auto place = source_.place_of(bytes);
    if (!place)
      throw base::Error(
          base::ErrorKind::unsupported, path,
          "lies in no file as it is read: these experts are put together in memory when the model opens",
          "experts can be read from the disk as they are needed once `coterie convert MODEL OUT.gguf` has "
          "written the model in the order it is read; or give the model more memory");
    expert.part_of[which] = static_cast<int32_t>(expert.parts.size());
    expert.parts.push_back({.file = files_.add(*place, bytes),
                            .offset = place->offset,
                            .bytes = std::ssize(bytes),
                            .mapped = bytes.data()});
  }

  const checkpoint::TensorSource& source_;
  FileTable& files_;
  bool pending_gate_ = false;
};

/// Parts that overlap (halves of a merged gate-up, row by row) or touch become one.
void join(StoredExpert& expert) {
  const std::vector<ExpertPart> own = expert.parts;  // by matrix
  std::sort(expert.parts.begin(), expert.parts.end(), [](const ExpertPart& a, const ExpertPart& b) {
    return std::pair(a.file, a.offset) < std::pair(b.file, b.offset);
  });
  std::vector<ExpertPart> joined;
  for (const ExpertPart& part : expert.parts) {
    if (!joined.empty() && joined.back().file == part.file &&
        part.offset <= joined.back().offset + joined.back().bytes) {
      joined.back().bytes = std::max(joined.back().bytes, part.offset + part.bytes - joined.back().offset);
    } else {
      joined.push_back(part);
    }
  }
  for (size_t which = 0; which < 3; ++which) {
    if (expert.part_of[which] < 0) continue;
    const ExpertPart& part = own[static_cast<size_t>(expert.part_of[which])];
    for (size_t i = 0; i < joined.size(); ++i) {
      const int64_t in = part.offset - joined[i].offset;
      if (part.file != joined[i].file || in < 0 || in >= joined[i].bytes) continue;
      expert.part_of[which] = static_cast<int32_t>(i), expert.offset_in[which] = in;
    }
  }
  expert.parts = std::move(joined);
}

}  // namespace

int64_t StoredExpert::bytes() const {
  int64_t sum = 0;
  for (const ExpertPart& part : parts) sum += part.bytes;
  return sum;
}

ExpertLayout ExpertLayout::of(const models::Decoder& decoder, const checkpoint::TensorSource& source,
                              FileTable& files) {
  Finder finder(source, files);
  decoder.read(finder);
  for (Layer& layer : finder.result.layers)
    for (StoredExpert& expert : layer.experts) join(expert);
  return std::move(finder.result);
}

void ExpertLayout::fit(int64_t unit) {
  // What a slot must have for an expert of these parts, wherever in a unit they begin: so that experts of one shape are
  // of one class.
  const auto room = [&](const StoredExpert& expert) {
    int64_t bytes = 0;
    for (const ExpertPart& part : expert.parts) bytes += up(part.bytes, unit) + unit;
    return bytes;
  };
  std::vector<int64_t> sizes;
  for (const Layer& layer : layers)
    for (const StoredExpert& expert : layer.experts)
      if (!expert.parts.empty()) sizes.push_back(room(expert));
  std::sort(sizes.begin(), sizes.end(), std::greater<>());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  slot_bytes.clear();
  constexpr int64_t kShare = 32;  // a slot may be larger than its expert by this part
  for (const int64_t size : sizes)
    if (slot_bytes.empty() || size + size / kShare < slot_bytes.back()) slot_bytes.push_back(size);
  class_experts.assign(slot_bytes.size(), 0);
  for (Layer& layer : layers)
    for (StoredExpert& expert : layer.experts) {
      if (expert.parts.empty()) continue;
      const int64_t size = room(expert);
      size_t size_class = slot_bytes.size() - 1;  // the smallest that has room
      while (slot_bytes[size_class] < size) --size_class;
      expert.size_class = static_cast<int32_t>(size_class);
      ++class_experts[size_class];
      int64_t at = 0;
      for (ExpertPart& part : expert.parts) {
        part.slot_offset = at;
        at += up(part.offset + part.bytes, unit) - part.offset / unit * unit;
      }
      for (size_t which = 0; which < 3; ++which) {
        if (expert.part_of[which] < 0) continue;
        const ExpertPart& part = expert.parts[static_cast<size_t>(expert.part_of[which])];
        expert.slot_at[which] = part.slot_offset + part.offset % unit + expert.offset_in[which];
      }
    }
}

int64_t ExpertLayout::expert_bytes() const {
  int64_t sum = 0;
  for (const Layer& layer : layers)
    for (const StoredExpert& expert : layer.experts) sum += expert.bytes();
  return sum;
}

int64_t ExpertLayout::experts() const {
  int64_t count = 0;
  for (const Layer& layer : layers)
    count += std::count_if(layer.experts.begin(), layer.experts.end(),
                           [](const StoredExpert& expert) { return !expert.parts.empty(); });
  return count;
}

}  // namespace coterie::runtime
