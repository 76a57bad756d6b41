#include "layers/attention/indexer.h"

#include <cmath>
#include <iterator>

#include "base/error.h"
#include "layers/attention/latent.h"
#include "layers/lora.h"
#include "ops/elementwise.h"

namespace coterie::layers {

namespace {

RopeSpec rope_of(const LatentAttentionSpec& spec) {
  RopeSpec rope = spec.rope;
  rope.style = spec.indexer->style;
  return rope;
}

}  // namespace

ops::CacheLayout index_layout(const LatentAttentionSpec& spec, tensor::DType dtype) {
  const bool own = spec.indexer && spec.indexer->own;
  return {own ? 1 : 0, own ? spec.indexer->head_dim : 0, 0, dtype};
}

Indexer::Indexer(const LatentAttentionSpec& spec, int64_t width) : spec_(spec), width_(width), rope_(rope_of(spec)) {}

void Indexer::visit(TensorVisitor& visitor, const std::string& path) {
  const IndexerSpec& spec = *spec_.indexer;
  if (!spec.own) return;
  visitor.linear(path + ".q", Place::mixer, spec.heads * spec.head_dim, spec_.q_rank, false, q_);
  visitor.linear(path + ".k", Place::mixer, spec.head_dim, width_, false, k_);
  visitor.vector({path + ".k_norm", Place::norms}, spec.head_dim, k_norm_);
  visitor.vector({path + ".k_norm.bias", Place::norms}, spec.head_dim, k_norm_bias_);
  visitor.linear(path + ".weights", Place::mixer, spec.heads, width_, false, weights_);
}

std::vector<ops::ChosenPositions> Indexer::choose(const Batch& batch, int64_t layer, tensor::ConstMatrix x,
                                                  tensor::ConstMatrix latent, std::span<const ops::Segment> rows,
                                                  tensor::DType dtype) const {
  const IndexerSpec& spec = *spec_.indexer;
  base::require(batch.selections != nullptr, "indexer", "a pass without memory for what indexers choose");
  std::map<int64_t, Selections::OfLayer>& by_layer = batch.selections->by_layer;
  if (spec.own) {
    // Like a router's: in f32, and nothing of it is differentiated.
    ops::Context exact = batch.context;
    exact.precision = ops::Precision::f32, exact.tape = nullptr;
    const Batch plain{.context = exact, .positions = batch.positions, .sequences = batch.sequences, .pass = batch.pass};
    const tensor::ArenaScope scratch(exact.arena);
    const tensor::Matrix q = exact.arena.matrix(x.rows, spec.heads * spec.head_dim);
    const tensor::Matrix k = exact.arena.matrix(x.rows, spec.head_dim);
    const tensor::Matrix weights = exact.arena.matrix(x.rows, spec.heads);
    project(plain, latent, q_, q), project(plain, x, k_, k), project(plain, x, weights_, weights);
    ops::layer_norm(exact, k, k_norm_.data(), k_norm_bias_.data(), spec.norm_eps, k);
    rope_.forward(plain, spec.heads, q), rope_.forward(plain, 1, k);
    ops::scale(exact, weights, 1 / std::sqrt(static_cast<float>(spec.heads)));
    const ops::IndexCache cache{index_layout(spec_, dtype), cache_layout(spec_, dtype).block_bytes()};
    ops::append_index(exact, cache, k, rows);
    if (!batch.context.tape && !batch.pass.recompute) by_layer.clear();  // else layers may run once more
    Selections::OfLayer& chosen = by_layer[layer];
    const float scale = 1 / std::sqrt(static_cast<float>(spec.head_dim));
    for (size_t i = 0; i < rows.size(); ++i)
      chosen[batch.sequences[i].step.state] =
          ops::choose_positions(exact, cache, q, weights, scale, spec.top_k, rows[i]);
  }
  const auto after = by_layer.upper_bound(layer);
  base::require(after != by_layer.begin(), "indexer", "layer {} sees what an indexer chose, and none is before it",
                layer);
  std::vector<ops::ChosenPositions> result;
  for (const SequenceRows& s : batch.sequences) {
    ops::ChosenPositions chosen = std::prev(after)->second.at(s.step.state);
    // Rows of sequences before may have left in between.
    chosen.first_row = s.first_row + s.rows - chosen.rows();
    result.push_back(std::move(chosen));
  }
  return result;
}

}  // namespace coterie::layers
