#include "runtime/expert_store/expert_store.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "base/error.h"

namespace coterie::runtime {

namespace {

// Slots that a prompt's misses pass through where the next layer's are read ahead: as many experts as a disk of 4 GB/s
// reads while a layer's attention is computed, at most.
constexpr int64_t kWideRing = 32;
// Experts of a prompt that are computed at a time where slots are waited for: few enough that slots become free while
// others are computed.
constexpr size_t kPromptGroup = 16;

PolicyShape policy_shape(const ExpertLayout& layout, std::vector<int64_t> slots, LookAhead look_ahead) {
  PolicyShape shape;
  shape.layers = std::ssize(layout.layers), shape.slots = std::move(slots);
  if (look_ahead != LookAhead::off) shape.widest_ring = kWideRing;
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
    prompt_ = prompt;
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
    std::vector<int32_t> asked;
    for (const ExpertDemand& demand : demands) asked.push_back(demand.expert);
    // A plan of a prompt may want any slot of the ring, and what a prompt guesses is in all of it.
    store.guesses_.settle(layer, asked);
    store.prefetch_.settle(layer, asked, prompt || std::exchange(store.ring_ahead_, false));
    plan_ = store.policy_.plan(layer, demands, tokens, prompt,
                               next                            ? ExpertPolicy::Pieces::next
                               : told && step.rows_at_once > 0 ? ExpertPolicy::Pieces::first
                                                               : ExpertPolicy::Pieces::one);
    uses_.resize(plan_.uses.size());
    for (size_t u = 0; u < static_cast<size_t>(plan_.hits); ++u) find(u);
    read_what_can_be();
  }

  ~Lease() override {
    // Only after an error something is left: it must not write into a slot that is somebody else's by then.
    while (under_way_ > 0) arrive(store_.reader_->wait());
    store_.prefetch_.forget_adopted();
    const auto failed = [](const Use& use) { return use.state == Use::waiting || use.state == Use::failed; };
    if (std::any_of(uses_.begin(), uses_.end(), failed)) store_.prefetch_.drop();
    for (size_t u = 0; u < uses_.size(); ++u)
      if (failed(uses_[u])) store_.policy_.forget(plan_.uses[u].slot);
    store_.policy_.release(layer_);
    figures_->reading += store_.reader_->busy_seconds() - store_.noted_busy_;
    store_.noted_busy_ = store_.reader_->busy_seconds();
    const int64_t ahead = store_.prefetch_.bytes() - store_.noted_bytes_;
    figures_->bytes += ahead, figures_->ahead_bytes += ahead;
    store_.noted_bytes_ += ahead;
  }

  std::span<const int32_t> next() override {
    for (const size_t u : handed_) uses_[u].state = Use::computed;
    const bool first = !std::exchange(begun_, true);
    if (first && store_.guess_) look_ahead(*store_.guess_);  // not before: what throws here must end the lease
    if (!handed_.empty()) {
      read_what_can_be();
      if (store_.prefetch_.waits())
        store_.prefetch_.begin([this](int32_t u) { return uses_[static_cast<size_t>(u)].state == Use::computed; });
    }
    handed_.clear(), ids_.clear();
    if (first) ids_ = without_bytes_;
    const size_t group = prompt_ && store_.prefetch_.waits() ? kPromptGroup : uses_.size();
    for (; at_hit_ < static_cast<size_t>(plan_.hits) && handed_.size() < group; ++at_hit_)
      if (uses_[at_hit_].state == Use::there && uses_[at_hit_].pieces == 0) hand_out(at_hit_);
    if (!ids_.empty()) return ids_;
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
    ExpertPiece of;
    size_t use;
  };

  const StoredExpert& stored(int32_t expert) const {
    return store_.layout_.layers[static_cast<size_t>(layer_)].experts[static_cast<size_t>(expert)];
  }

  /// A hit, whose expert is there or on its way.
  void find(size_t u) {
    const int32_t slot = plan_.uses[u].slot;
    figures_->ahead_used += store_.prefetch_.ahead(slot);
    uses_[u].pieces = store_.prefetch_.adopt(slot, static_cast<int32_t>(u));
    uses_[u].state = uses_[u].pieces > 0 ? Use::reading : Use::there;
    under_way_ += uses_[u].pieces;
  }

  /// Begins to read what the next layer will probably ask for, as far as there are slots for it.
  void look_ahead(const layers::RoutingGuess& next) {
    const int32_t layer = store_.layer_of(next.inputs());
    if (layer == ExpertPolicy::kNone || layer == layer_) return;
    const layers::RoutingGuess::Choices choices = next.choices();
    const auto rows = choices.per_row > 0 ? std::ssize(choices.ids) / choices.per_row : 0;
    std::vector<int32_t> wanted;
    for (int64_t rank = 0; rank < choices.per_row; ++rank) {
      const bool worth = prompt_ || store_.guesses_.worth(rank);
      for (int64_t row = 0; row < rows; ++row) {
        const int32_t expert = choices.ids[static_cast<size_t>(row * choices.per_row + rank)];
        if (expert < 0) continue;
        if (worth) wanted.push_back(expert);
        if (!prompt_ && store_.policy_.slot_of(layer, expert) == ExpertPolicy::kNone)
          store_.guesses_.guess(layer, expert, rank);
      }
    }
    if (prompt_) std::sort(wanted.begin(), wanted.end());  // nearly all: in the order of the file
    std::vector<int32_t> last_use;                         // of each slot, in this lease
    for (const ExpertPolicy::Prefetch& each : store_.policy_.prefetch(layer, wanted, prompt_)) {
      if (last_use.empty()) {
        last_use.assign(static_cast<size_t>(store_.all_slots()), ExpertPolicy::kNone);
        for (size_t u = 0; u < plan_.uses.size(); ++u)
          last_use[static_cast<size_t>(plan_.uses[u].slot)] = static_cast<int32_t>(u);
      }
      store_.prefetch_.add(layer, each.expert, each.slot, last_use[static_cast<size_t>(each.slot)],
                           store_.pieces(layer, each.expert, each.slot));
      ++figures_->ahead;
    }
    store_.ring_ahead_ = prompt_;
  }

  void hand_out(size_t u) {
    const int32_t e = plan_.uses[u].expert;
    const StoredExpert& expert = stored(e);
    std::byte* const memory = store_.slot(expert, plan_.uses[u].slot);
    ops::ExpertInput& in = inputs_[static_cast<size_t>(e)];
    tensor::Weight* const weights[] = {&in.gate, &in.up, &outputs_[static_cast<size_t>(e)].down};
    for (size_t which = 0; which < 3; ++which)
      if (expert.part_of[which] >= 0) weights[which]->data = memory + expert.slot_at[which];
    handed_.push_back(u), ids_.push_back(e);
  }

  /// All that is missing and whose slot is free: at once, in the order of the file.
  void read_what_can_be() {
    std::vector<ReadPiece> reads;
    for (size_t u = static_cast<size_t>(plan_.hits); u < uses_.size(); ++u) {
      const int32_t after = plan_.uses[u].after;
      if (uses_[u].state != Use::waiting) continue;
      if (after != ExpertPolicy::kNone && uses_[static_cast<size_t>(after)].state != Use::computed) continue;
      uses_[u].state = Use::reading;
      for (ExpertPiece& piece : store_.pieces(layer_, plan_.uses[u].expert, plan_.uses[u].slot)) {
        piece.read.tag = pieces_.size();
        reads.push_back(piece.read);
        pieces_.push_back({piece, u});
        ++uses_[u].pieces;
      }
    }
    if (reads.empty()) return;
    under_way_ += std::ssize(reads);
    store_.reader_->submit(reads);
  }

  void arrive(const ReadDone& done) {
    if (!PrefetchReads::owns(done.tag)) return arrive(done, pieces_[done.tag].of, pieces_[done.tag].use);
    const PrefetchReads::Ended ended = store_.prefetch_.ended(done);
    if (ended.use != PrefetchReads::kNone) arrive(done, ended.piece, static_cast<size_t>(ended.use));
  }
  void arrive(const ReadDone& done, const ExpertPiece& piece, size_t u) {
    Use& use = uses_[u];
    figures_->bytes += std::max<int64_t>(done.bytes, 0);
    --under_way_;
    if (done.error != 0 || done.bytes < piece.needed) {
      use.state = Use::failed;
      if (!error_)
        error_ = read_error(store_.source_, store_.files_, piece.read, done, piece.needed, piece.mapped,
                            fmt::format(", expert {}", plan_.uses[u].expert));
    }
    if (--use.pieces > 0 || use.state == Use::failed) return;
    if (store_.reader_->changed(piece.read.file)) {
      use.state = Use::failed;
      if (!error_) error_ = changed_error(store_.files_, piece.read.file);
      return;
    }
    use.state = Use::there;
    arrived_.push_back(u);
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
  bool begun_ = false, prompt_ = false;
  size_t at_hit_ = 0;  // the next that is handed out
  std::optional<base::Error> error_;
};

ExpertStore::ExpertStore(ExpertLayout layout, const checkpoint::TensorSource& source, const FileTable& files,
                         std::unique_ptr<BlockReader> reader, std::vector<int64_t> slots, LookAhead look_ahead)
    : layout_(std::move(layout)),
      source_(source),
      files_(files),
      reader_(std::move(reader)),
      arena_(layout_.slot_bytes, slots, reader_->unit()),
      policy_(policy_shape(layout_, std::move(slots), look_ahead)),
      prefetch_(policy_, *reader_),
      switch_(look_ahead),
      noted_busy_(reader_->busy_seconds()) {}

// A reader must not write into slots that are gone.
ExpertStore::~ExpertStore() { reader_.reset(); }

void ExpertStore::begin_step(Step step) {
  step_ = std::move(step);
  layer_ = -1, rows_ = 0;
  guess_ = nullptr;
  asked_ = policy_.decode().hits + policy_.decode().misses;
  clock_.restart();
}

void ExpertStore::end_step() {
  if (!step_.prompt) switch_.note(clock_.seconds(), policy_.decode().hits + policy_.decode().misses - asked_);
}

bool ExpertStore::looks_ahead() const {
  if (step_.prompt) return switch_.mode() != LookAhead::off;
  return switch_.on();
}

std::byte* ExpertStore::slot(const StoredExpert& expert, int32_t number) const {
  return arena_.slot(expert.size_class, number - policy_.first_slot(expert.size_class));
}

std::vector<ExpertPiece> ExpertStore::pieces(int32_t layer, int32_t expert, int32_t number) const {
  const StoredExpert& stored = layout_.layers[static_cast<size_t>(layer)].experts[static_cast<size_t>(expert)];
  return pieces_of(stored, slot(stored, number), reader_->unit());
}

int32_t ExpertStore::layer_of(std::span<const ops::ExpertInput> inputs) const {
  const auto known = std::find_if(inputs.begin(), inputs.end(), [](const auto& in) { return bool(in.up); });
  if (known == inputs.end()) return ExpertPolicy::kNone;
  const auto found = layout_.layer_at.find(known->up.data);
  return found == layout_.layer_at.end() ? ExpertPolicy::kNone : found->second;
}

std::unique_ptr<layers::ExpertLease> ExpertStore::lease(const layers::ExpertCall& call) {
  const int32_t layer = layer_of(call.inputs);
  base::require(layer != ExpertPolicy::kNone, "expert store", "layer {} has no experts, or is not one of this model's",
                call.layer);
  base::require(std::ssize(call.inputs) == std::ssize(layout_.layers[static_cast<size_t>(layer)].experts),
                "expert store", "layer {} has {} experts", call.layer, call.inputs.size());
  return std::make_unique<Lease>(*this, call, layer);
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
  prefetch_.reset_counts();
  figures_ = {};
  noted_bytes_ = asked_ = 0, noted_busy_ = reader_->busy_seconds();
}

int64_t ExpertStore::all_slots() const { return std::accumulate(slots().begin(), slots().end(), int64_t{0}); }

}  // namespace coterie::runtime
