#include "runtime/memory_plan.h"

#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <set>
#include <string>

#include "base/memory.h"
#include "runtime/kv_cache.h"
#include "runtime/weight_bytes.h"

namespace coterie::runtime {

namespace {

constexpr int64_t kFloat = sizeof(float);
// Rows of a matmul's input are quantised to int8 with sums and scales: at most 1.5 bytes a value, and a pointer a row.
constexpr double kQuantised = 1.5;
constexpr int64_t kPointer = sizeof(void*);
// Outputs that a worker keeps in the second cache while it works on a piece, its decoded panels of weights, and the
// tokens that AMX packs.
constexpr int64_t kPiece = 1 << 20;

int64_t quantised(int64_t rows, int64_t width) {
  return static_cast<int64_t>(kQuantised * static_cast<double>(rows * width)) + rows * kPointer;
}

int64_t mixer_bytes(const layers::AttentionSpec& spec, int64_t n, int64_t width) {
  int64_t rows = spec.heads * (spec.head_dim + spec.value_dim) + spec.kv_heads * (spec.head_dim + spec.value_dim);
  if (spec.gate.shape == layers::OutputGate::Shape::per_head) rows += spec.heads;
  if (spec.gate.shape == layers::OutputGate::Shape::per_channel) rows += spec.heads * spec.value_dim;
  if (spec.gate.shape == layers::OutputGate::Shape::beside_query) rows += 3 * spec.heads * spec.head_dim;
  return n * rows * kFloat + quantised(n, std::max(width, spec.heads * spec.value_dim));
}

// What an indexer makes of a row, and a tile of its scores or of gathered blocks (ops/sparse_attention.cpp).
int64_t index_bytes(const layers::LatentAttentionSpec& spec, int64_t n) {
  if (!spec.indexer) return 0;
  return n * ((spec.indexer->heads + 1) * spec.indexer->head_dim + spec.indexer->heads + spec.indexer->top_k) * kFloat +
         (int64_t{64} << 20);
}

int64_t mixer_bytes(const layers::LatentAttentionSpec& spec, int64_t n, int64_t width) {
  const int64_t key = spec.kv_rank + spec.rope_dim, h = spec.heads;
  // The absorbed queries beside what they are made of, or beside what they turn into.
  const int64_t before = h * (spec.head_dim() + spec.nope_dim), after = h * (spec.kv_rank + 2 * spec.value_dim);
  return n * (h * key + key + spec.q_rank + std::max(before, after)) * kFloat + index_bytes(spec, n) +
         quantised(n, std::max({width, h * spec.kv_rank, h * spec.value_dim}));
}

int64_t mixer_bytes(const layers::MambaSpec& spec, int64_t n, int64_t width) {
  return n * (4 * spec.inner + spec.heads * (spec.dt_rank + 2 * spec.states)) * kFloat +
         quantised(n, std::max(width, spec.inner));
}

int64_t mixer_bytes(const layers::Mamba2Spec& spec, int64_t n, int64_t width) {
  return n * (2 * spec.inner() + 2 * spec.conv_channels() + 3 * spec.heads) * kFloat +
         quantised(n, std::max(width, spec.inner()));
}

int64_t mixer_bytes(const layers::DeltaRuleSpec& spec, int64_t n, int64_t width) {
  return n *
             (2 * spec.conv_channels() + 3 * spec.value_width() + 2 * spec.decay_width() + spec.value_heads +
              spec.decay_rank + spec.gate_rank) *
             kFloat +
         quantised(n, std::max(width, spec.value_width()));
}

int64_t mixer_bytes(const layers::ShortConvSpec&, int64_t n, int64_t width) {
  return 4 * n * width * kFloat + quantised(n, width);
}

int64_t mixer_bytes(const layers::LightningSpec& spec, int64_t n, int64_t width) {
  return n * (6 * spec.width() + spec.heads) * kFloat + quantised(n, std::max(width, spec.width()));
}

int64_t mixer_bytes(const layers::NoMixerSpec&, int64_t, int64_t) { return 0; }

// With its projection's output, its own, its input and the halves of its FFN.
int64_t shared_bytes(const layers::SharedBlockSpec& spec, int64_t n, int64_t width) {
  return n * (4 * width + 4 * spec.ffn.hidden) * kFloat + mixer_bytes(spec.attention, n, 2 * width);
}

int64_t ffn_bytes(const layers::DenseFfnSpec& spec, int64_t n, int64_t width) {
  return n * spec.hidden * kFloat + quantised(n, std::max(width, spec.hidden));
}

int64_t ffn_bytes(const layers::NoFfnSpec&, int64_t, int64_t) { return 0; }

int64_t ffn_bytes(const layers::MoeSpec& spec, int64_t n, int64_t width) {
  const int64_t slots = n * spec.router.experts_per_token;
  const int64_t routed =
      n * spec.router.experts * kFloat + slots * spec.hidden * kFloat + quantised(slots, spec.hidden);
  const int64_t latent = spec.latent > 0 ? 2 * n * spec.latent * kFloat + quantised(n, spec.latent) : 0;
  const int64_t shared =
      spec.shared_hidden > 0 ? n * (width + spec.shared_hidden) * kFloat + quantised(n, spec.shared_hidden) : 0;
  const int64_t norms = spec.experts_norm || spec.router.input_norm ? 2 * n * width * kFloat : 0;
  return std::max(routed + norms, shared + norms) + latent + quantised(n, width);
}

// Bytes of this process's mappings of the source's files that are resident, from /proc/self/smaps: after a line for
// each mapping ("7f12-7f56 r--p 0 08:01 42  /path") come its figures.
int64_t resident_pages(const checkpoint::TensorSource& source) {
  std::set<std::string> files;
  std::error_code ignored;
  for (const checkpoint::TensorInfo& tensor : source.tensors()) files.insert(source.file_of(tensor));
  std::set<std::string> paths;  // as the kernel writes them
  for (const std::string& file : files) paths.insert(std::filesystem::canonical(file, ignored).string());
  std::ifstream smaps("/proc/self/smaps");
  int64_t kilobytes = 0;
  bool ours = false;
  for (std::string line; std::getline(smaps, line);) {
    if (const size_t path = line.find('/'); path != std::string::npos) ours = paths.contains(line.substr(path));
    if (ours && line.starts_with("Rss:")) kilobytes += std::strtoll(line.c_str() + 4, nullptr, 10), ours = false;
  }
  return kilobytes * 1024;
}

}  // namespace

void release_freed_memory() { ::malloc_trim(0); }

int64_t held_by_process(const checkpoint::TensorSource& source, int64_t weights) {
  release_freed_memory();
  const int64_t other = source.format() == checkpoint::Format::memory ? weights : resident_pages(source);
  return std::max<int64_t>(base::resident_memory() - other, 0);
}

// Code, and about this much for each token of the vocabulary that a tokenizer keeps (measured: 180 to 260 bytes).
int64_t process_bytes(const models::ModelSpec& spec) {
  constexpr int64_t kProcess = 16 << 20, kToken = 220;
  return kProcess + kToken * spec.vocabulary;
}

int64_t scratch_bytes(const models::ModelSpec& spec, int64_t tokens, int64_t logit_rows, int threads) {
  int64_t block = 0;
  for (const models::BlockSpec& b : spec.blocks) {
    const int64_t mixer = std::visit([&](const auto& m) { return mixer_bytes(m, tokens, spec.width); }, b.mixer);
    const int64_t ffn = std::visit([&](const auto& f) { return ffn_bytes(f, tokens, spec.width); }, b.ffn);
    block = std::max({block, mixer, ffn});
    if (b.shared)
      block = std::max(block, shared_bytes(spec.shared[static_cast<size_t>(b.shared->block)], tokens, spec.width));
  }
  // x, its norm and a layer's output; the embedded tokens for blocks that read them again; what a block left for the
  // next
  const bool shortcut =
      std::any_of(spec.blocks.begin(), spec.blocks.end(), [](const auto& b) { return b.adds_shortcut; });
  const int64_t stream = ((spec.shared.empty() ? 3 : 4) + (shortcut ? 1 : 0)) * tokens * spec.width * kFloat;
  const int64_t logits = logit_rows * (spec.vocabulary + spec.width) * kFloat + quantised(logit_rows, spec.width);
  return stream + std::max(block, logits) + threads * kPiece;
}

MemoryForecast forecast_memory(const families::Model& model, int64_t context, int64_t step_tokens,
                               tensor::DType cache_type, int threads) {
  const models::ModelSpec& spec = model.decoder->spec();
  MemoryForecast forecast;
  forecast.weights = weight_bytes(*model.decoder).all_held();
  forecast.process = held_by_process(*model.source, forecast.weights);
  if (model.source->format() != checkpoint::Format::memory) {
    // Headers have been read and weights hardly: count the former once and the latter in full.
    int64_t tensors = 0;
    for (const checkpoint::TensorInfo& tensor : model.source->tensors())
      tensors += tensor.bytes.empty() && !tensor.shape.empty()  // put together in memory: quantised
                     ? tensor::element_count(tensor.shape) / tensor.shape.back() *
                           tensor::row_bytes(tensor.dtype, tensor.shape.back())
                     : static_cast<int64_t>(tensor.bytes.size());
    forecast.process += std::max<int64_t>(model.source->file_bytes() - tensors, 0);
  }
  forecast.cache = cache_bytes(cache_shape(spec, cache_type), context);
  forecast.scratch = scratch_bytes(spec, std::min(step_tokens, context), 1, threads);
  return forecast;
}

}  // namespace coterie::runtime
