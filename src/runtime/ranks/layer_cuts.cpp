#include "runtime/ranks/layer_cuts.h"

#include <algorithm>
#include <numeric>

#include "layers/weight_names.h"

namespace coterie::runtime {

namespace {

/// Bytes of weights by layer, as they are bound.
class BytesOfLayers final : public layers::TensorReader {
 public:
  explicit BytesOfLayers(size_t layers) : bytes(layers) {}
  void matrix(const Tensor& tensor, int64_t, int64_t, const tensor::Weight& weight) override {
    add(tensor, weight.bytes());
  }
  void vector(const Tensor& tensor, int64_t, const layers::Vector& vector) override {
    add(tensor, vector.values.size() * static_cast<int64_t>(sizeof(float)));
  }
  void stack(const Tensor& tensor, int64_t, int64_t, int64_t, const std::vector<tensor::Weight>& weights) override {
    for (const tensor::Weight& weight : weights) add(tensor, weight.bytes());
  }

  std::vector<int64_t> bytes;
  int64_t outside = 0, embeddings = 0;

 private:
  void add(const Tensor& tensor, int64_t count) {
    const int64_t layer = layers::layer_of(tensor.path);
    if (layer >= 0 && layer < std::ssize(bytes))
      bytes[static_cast<size_t>(layer)] += count;
    else
      (tensor.place == layers::Place::input_embeddings ? embeddings : outside) += count;
  }
};

}  // namespace

std::vector<LayerSpan> cut_layers(const std::vector<int64_t>& bytes, int64_t outside, const std::vector<char>& may_cut,
                                  int ranks) {
  const auto layers = std::ssize(bytes);
  const int64_t total = std::accumulate(bytes.begin(), bytes.end(), outside);
  std::vector<LayerSpan> spans;
  int64_t before = outside, next = 0;  // bytes that ranks so far have, the first layer that none has
  for (int r = 0; r < ranks; ++r) {
    LayerSpan span{next, next};
    // The cut nearest to an even share; the last rank has what is left.
    int64_t best = next, least = -1, at = before;
    for (int64_t end = next; end <= layers; ++end) {
      const int64_t off = std::abs(at * ranks - total * (r + 1));
      const bool allowed = end == layers || (end == next ? r == 0 || end > 0 : may_cut[static_cast<size_t>(end)] != 0);
      if (allowed && (least < 0 || off <= least)) best = end, least = off;
      if (end < layers) at += bytes[static_cast<size_t>(end)];
    }
    span.end = r + 1 == ranks ? layers : best;
    for (; next < span.end; ++next) before += bytes[static_cast<size_t>(next)];
    spans.push_back(span);
  }
  return spans;
}

std::vector<LayerSpan> cut_layers(const models::Decoder& decoder, int ranks) {
  const models::ModelSpec& spec = decoder.spec();
  BytesOfLayers reader(spec.blocks.size());
  decoder.read(reader);
  std::vector<char> may_cut;
  for (const models::BlockSpec& block : spec.blocks) {
    const auto* latent = std::get_if<layers::LatentAttentionSpec>(&block.mixer);
    may_cut.push_back(!block.adds_shortcut && !(latent && latent->indexer && !latent->indexer->own));
  }
  // Tied embeddings are the head, others are only looked up.
  return cut_layers(reader.bytes, reader.outside + (spec.tied_embeddings ? reader.embeddings : 0), may_cut, ranks);
}

}  // namespace coterie::runtime
