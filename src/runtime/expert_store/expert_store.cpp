#include "runtime/expert_store/expert_store.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "base/error.h"

namespace coterie::runtime {

namespace {

constexpr int64_t kExpertPieceBytes = 1 << 20;  // of a read: the disk has several at a time

PolicyShape policy_shape(const ExpertLayout& layout, std::vector<int64_t> slots) {
  PolicyShape shape;
  shape.layers = std::ssize(layout.layers), shape.slots = std::move(slots);
  for (const ExpertLayout::Layer& layer : layout.layers)
    shape.experts = std::max(shape.experts, std::ssize(layer.experts));
  for (const ExpertLayout::Layer& layer : layout.layers) {
    for (const StoredExpert& expert : layer.experts)
      shape.size_class.push_back(expert.parts.empty() ? ExpertPolicy::kNone : expert.size_class);
    shape.size_class.resize(shape.size_class.size() + static_cast<size_t>(shape.experts) - layer.experts.size(),
                            ExpertPolicy::kNone);
  }
  return shape;
}

}  // namespace

/// The experts of one call: those that are there, then the others as they come.
class ExpertStore::Lease final : public layers::ExpertLease {
 public:
  Lease(ExpertStore& store, const layers::ExpertCall& call, int32_t layer)
      : store_(store),
        layer_(layer),
        inputs_(call.inputs.begin(), call.inputs.end()),
        outputs_(call.outputs.begin(), call.outputs.end()) {
    const Step& step = store.step_;
    const bool told = step.tokens > 0;
    const int64_t tokens = told ? step.tokens : call.plan.tokens;
    const bool prompt = told ? step.prompt : call.plan.tokens >= kPromptTokens;
    const bool next = told && step.rows_at_once > 0 && store.layer_ == layer && store.rows_ < step.tokens;
    if (!next) store.rows_ = 0;
    // Rows of the plan that are warm; where it has not the step's rows (scaled inputs), its last ones.
    std::vector<std::pair<int64_t, int64_t>> warm;
    if (told && store.rows_ + call.plan.tokens <= tokens && (step.rows_at_once > 0 || call.plan.tokens == tokens)) {
      for (const auto& [begin, end] : step.warm) warm.emplace_back(begin - store.rows_, end - store.rows_);
    } else {
      warm.emplace_back(call.plan.tokens - kWarmTokens, call.plan.tokens);
    }
    store.layer_ = layer, store.rows_ += call.plan.tokens;
    figures_ = prompt ? &store.figures_.prompt : &store.figures_.decode;
    std::vector<ExpertDemand> demands;
    for (int32_t e = 0; e < call.plan.experts(); ++e) {
      const std::span<const int32_t> rows = call.plan.tokens_of(e);
      if (rows.empty()) continue;
      if (stored(e).parts.empty()) {
        without_bytes_.push_back(e);
      } else {
        ExpertDemand demand{.expert = e, .tokens = std::ssize(rows)};
        if (prompt)
          for (const auto& [begin, end] : warm)
            demand.warm +=
                std::lower_bound(rows.begin(), rows.end(), end) - std::lower_bound(rows.begin(), rows.end(), begin);
        demands.push_back(demand);
      }
    }
    plan_ = store.policy_.plan(layer, demands, tokens, prompt,
                               next                            ? ExpertPolicy::Pieces::next
                               : told && step.rows_at_once > 0 ? ExpertPolicy::Pieces::first
                                                               : ExpertPolicy::Pieces::one);
    uses_.resize(plan_.uses.size());
    for (size_t u = 0; u < static_cast<size_t>(plan_.hits); ++u) uses_[u].state = Use::there;
    read_what_can_be();
  }

  ~Lease() override {
    // Only after an error something is left: it must not write into a slot that is somebody else's by then.
    while (under_way_ > 0) arrive(store_.reader_->wait());
    for (size_t u = 0; u < uses_.size(); ++u)
      if (uses_[u].state == Use::waiting || uses_[u].state == Use::failed) store_.policy_.forget(plan_.uses[u].slot);
    store_.policy_.release(layer_);
  }

  std::span<const int32_t> next() override {
    for (const size_t u : handed_) uses_[u].state = Use::computed;
    const bool first = !std::exchange(begun_, true);
    if (!handed_.empty()) read_what_can_be();
    handed_.clear(), ids_.clear();
    if (first) {
      ids_ = without_bytes_;
      for (size_t u = 0; u < static_cast<size_t>(plan_.hits); ++u) hand_out(u);
      if (!ids_.empty()) return ids_;
    }
    while (under_way_ > 0) {
      const std::optional<ReadDone> done = store_.reader_->poll();
      if (!done) break;
      arrive(*done);
    }
    if (arrived_.empty() && under_way_ > 0) {
      const base::Stopwatch clock;
      while (arrived_.empty() && under_way_ > 0) arrive(store_.reader_->wait());
      figures_->stalled += clock.seconds();
    }
    if (error_) {
      while (under_way_ > 0) arrive(store_.reader_->wait());
      throw *error_;
    }
    for (const size_t u : arrived_) hand_out(u);
    arrived_.clear();
    return ids_;
  }
  std::span<const ops::ExpertInput> inputs() const override { return inputs_; }
  std::span<const ops::ExpertOutput> outputs() const override { return outputs_; }

 private:
  struct Use {
    enum State { waiting, reading, there, computed, failed } state = waiting;
    int64_t pieces = 0;  // under way
  };
  struct Piece {
    ReadPiece read;
    size_t use;
    int64_t needed;           // bytes of it that the expert has
    const std::byte* mapped;  // what it shows, for messages
  };

  const StoredExpert& stored(int32_t expert) const {
    return store_.layout_.layers[static_cast<size_t>(layer_)].experts[static_cast<size_t>(expert)];
  }
  std::byte* slot(size_t u) const {
    const auto size_class = stored(plan_.uses[u].expert).size_class;
    return store_.arena_.slot(size_class, plan_.uses[u].slot - store_.policy_.first_slot(size_class));
  }

  void hand_out(size_t u) {
    const int32_t e = plan_.uses[u].expert;
    const StoredExpert& expert = stored(e);
    std::byte* const memory = slot(u);
    ops::ExpertInput& in = inputs_[static_cast<size_t>(e)];
    tensor::Weight* const weights[] = {&in.gate, &in.up, &outputs_[static_cast<size_t>(e)].down};
    for (size_t which = 0; which < 3; ++which)
      if (expert.part_of[which] >= 0) weights[which]->data = memory + expert.slot_at[which];
    handed_.push_back(u), ids_.push_back(e);
  }

  /// All that is missing and whose slot is free: at once, in the order of the file.
  void read_what_can_be() {
    std::vector<ReadPiece> reads;
    const int64_t unit = store_.reader_->unit();
    for (size_t u = static_cast<size_t>(plan_.hits); u < uses_.size(); ++u) {
      const int32_t after = plan_.uses[u].after;
      if (uses_[u].state != Use::waiting) continue;
      if (after != ExpertPolicy::kNone && uses_[static_cast<size_t>(after)].state != Use::computed) continue;
      uses_[u].state = Use::reading;
      for (const ExpertPart& part : stored(plan_.uses[u].expert).parts) {
        const int64_t begin = part.offset / unit * unit, last = part.offset + part.bytes;
        const int64_t end = (last + unit - 1) / unit * unit;
        for (int64_t at = begin; at < end; at += kExpertPieceBytes) {
          const ReadPiece read{.file = part.file,
                               .offset = at,
                               .bytes = std::min(kExpertPieceBytes, end - at),
                               .to = slot(u) + part.slot_offset + (at - begin),
                               .tag = pieces_.size()};
          pieces_.push_back(
              {read, u, std::min(at + read.bytes, last) - at, part.mapped + std::max<int64_t>(at - part.offset, 0)});
          reads.push_back(read);
          ++uses_[u].pieces;
        }
      }
    }
    if (reads.empty()) return;
    if (under_way_ == 0) reading_.restart();
    under_way_ += std::ssize(reads);
    store_.reader_->submit(reads);
  }

  void arrive(const ReadDone& done) {
    const Piece& piece = pieces_[done.tag];
    Use& use = uses_[piece.use];
    figures_->bytes += std::max<int64_t>(done.bytes, 0);
    if (--under_way_ == 0) figures_->reading += reading_.seconds();
    if (done.error != 0 || done.bytes < piece.needed) {
      use.state = Use::failed;
      if (!error_)
        error_ = read_error(store_.source_, store_.files_, piece.read, done, piece.needed, piece.mapped,
                            fmt::format(", expert {}", plan_.uses[piece.use].expert));
    }
    if (--use.pieces > 0 || use.state == Use::failed) return;
    if (store_.reader_->changed(piece.read.file)) {
      use.state = Use::failed;
      if (!error_) error_ = changed_error(store_.files_, piece.read.file);
      return;
    }
    use.state = Use::there;
    arrived_.push_back(piece.use);
  }

  ExpertStore& store_;
  const int32_t layer_;
  std::vector<ops::ExpertInput> inputs_;
  std::vector<ops::ExpertOutput> outputs_;
  StreamFigures::Kind* figures_ = nullptr;
  ExpertPolicy::Plan plan_;
  std::vector<Use> uses_;  // beside those of the plan
  std::vector<int32_t> without_bytes_, ids_;
  std::vector<size_t> handed_, arrived_;  // uses
  std::vector<Piece> pieces_;
  int64_t under_way_ = 0;  // pieces
  bool begun_ = false;
  base::Stopwatch reading_;
  std::optional<base::Error> error_;
};

ExpertStore::ExpertStore(ExpertLayout layout, const checkpoint::TensorSource& source, const FileTable& files,
                         std::unique_ptr<BlockReader> reader, std::vector<int64_t> slots)
    : layout_(std::move(layout)),
      source_(source),
      files_(files),
      reader_(std::move(reader)),
      arena_(layout_.slot_bytes, slots, reader_->unit()),
      policy_(policy_shape(layout_, std::move(slots))) {}

ExpertStore::~ExpertStore() = default;

void ExpertStore::begin_step(Step step) {
  step_ = std::move(step);
  layer_ = -1, rows_ = 0;
}

std::unique_ptr<layers::ExpertLease> ExpertStore::lease(const layers::ExpertCall& call) {
  const auto known = std::find_if(call.inputs.begin(), call.inputs.end(), [](const auto& in) { return bool(in.up); });
  base::require(known != call.inputs.end(), "expert store", "layer {} has no experts", call.layer);
  const auto found = layout_.layer_at.find(known->up.data);
  base::require(found != layout_.layer_at.end(), "expert store", "layer {} is not one of this model's", call.layer);
  base::require(std::ssize(call.inputs) == std::ssize(layout_.layers[static_cast<size_t>(found->second)].experts),
                "expert store", "layer {} has {} experts", call.layer, call.inputs.size());
  return std::make_unique<Lease>(*this, call, found->second);
}

const StreamFigures& ExpertStore::figures() {
  const auto count = [](const ExpertPolicy::Counts& from, StreamFigures::Kind& to) {
    to.tokens = from.tokens, to.hits = from.hits, to.misses = from.misses;
  };
  count(policy_.decode(), figures_.decode), count(policy_.prompt(), figures_.prompt);
  return figures_;
}

void ExpertStore::reset_figures() {
  policy_.reset_counts();
  figures_ = {};
}

int64_t ExpertStore::all_slots() const { return std::accumulate(slots().begin(), slots().end(), int64_t{0}); }

}  // namespace coterie::runtime
