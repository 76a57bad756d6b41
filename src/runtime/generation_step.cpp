#include <algorithm>
#include <functional>
#include <utility>

#include "base/clock.h"
#include "runtime/generation.h"

namespace coterie::runtime {
namespace {
using Logits = models::SequenceStep::Logits;
}

/// One step() under way: who takes part, which tokens of each, what becomes of their logits.
class GenerationStep {
 public:
  GenerationStep(Engine& engine, layers::Observer* observer) : engine_(engine), observer_(observer) {}

  void run(std::span<Generation* const> generations) {
    join(generations);
    divide();
    if (steps_.empty()) return;
    watch_interruptions();
    const tensor::Matrix logits = evaluate();
    int64_t row = 0;
    for (size_t i = 0; i < steps_.size(); ++i) {
      const models::SequenceStep& step = steps_[i];
      const int64_t rows = step.logits == Logits::all ? std::ssize(step.ids) : step.logits == Logits::last ? 1 : 0;
      alone(*evaluating_[i], [&] { hand_out(i, logits.row_range(row, row + rows)); });
      row += rows;
    }
  }

 private:
  // What goes wrong with one sequence ends that one: the others have evaluated their tokens with it, and would miss
  // their rows of logits if it ended the step.
  template <typename Body>
  static void alone(Generation& generation, Body body) {
    try {
      body();
    } catch (...) {
      generation.fail(std::current_exception());
    }
  }

  void join(std::span<Generation* const> generations) {
    for (Generation* generation : generations) {
      if (generation->finished()) continue;
      if (generation->interrupted()) {
        alone(*generation, [&] { generation->end(Finish::interrupted); });
        continue;
      }
      generation->match_cache();
      taking_part_.push_back(generation);
      decoding_ += generation->pending().size() == 1 ? 1 : 0;
    }
    all_decode_ = decoding_ == std::ssize(taking_part_);
    rows_ = decoding_;
  }

  /// The step's rows among the sequences.
  void divide() {
    // At least one token goes to a prompt, so that a batch full of decoding sequences does not starve it.
    const int64_t most = taking_part_.size() == 1 && !observer_ ? engine_.prompt_tokens() : engine_.step_tokens();
    size_t budget = static_cast<size_t>(std::max<int64_t>(most - decoding_, 1));
    for (Generation* generation : taking_part_) {
      std::span<const TokenId> ids = generation->pending();
      const bool in_prompt = ids.size() > 1;
      if (in_prompt) ids = ids.first(std::min({ids.size(), budget, generation->until_snapshot()}));
      if (ids.empty()) continue;
      alone(*generation, [&] {
        // Not beside prompts: what such a step costs says nothing of the next.
        if (all_decode_ && generation->options_.speculator && generation->statistics_.generated_tokens > 0)
          ids = generation->with_draft(rows_);
        generation->tokens_.cache.make_room(std::ssize(ids));
      });
      if (generation->finished()) continue;
      if (in_prompt) budget -= ids.size();
      rows_ += in_prompt ? 0 : std::ssize(ids) - 1;
      add(*generation, ids, in_prompt);
    }
  }

  void add(Generation& generation, std::span<const TokenId> ids, bool in_prompt) {
    const bool tries = !in_prompt && ids.size() > 1;
    const bool to_the_end = ids.size() == generation.pending().size();
    evaluating_.push_back(&generation);
    steps_.push_back({.ids = ids,
                      .state = &generation.tokens_.cache,
                      .logits = tries        ? Logits::all
                                : to_the_end ? Logits::last
                                             : Logits::none,
                      .random_key = generation.sampler_.options().seed,
                      .length = std::ssize(generation.all_),
                      .model_weights = generation.options_.model_weights,
                      .normed = generation.rows_to_see(std::ssize(ids)),
                      .routers = generation.options_.routers});
  }

  void watch_interruptions() {
    left_.resize(steps_.size());
    leaves_.resize(steps_.size());
    for (size_t i = 0; i < steps_.size(); ++i) {
      if (!evaluating_[i]->can_be_interrupted()) continue;
      leaves_[i] = [this, i](int64_t) { return left_[i] = left_[i] || evaluating_[i]->interrupted(); };
      steps_[i].leaves = &leaves_[i];
    }
  }

  tensor::Matrix evaluate() {
    const base::Stopwatch clock;
    const tensor::Matrix logits = engine_.evaluate(steps_, {.observer = observer_});
    const double seconds = clock.seconds();
    if (all_decode_ && std::none_of(left_.begin(), left_.end(), [](char gone) { return gone; }))
      for (Generation* generation : evaluating_)
        if (Speculator* const speculator = generation->options_.speculator) {
          speculator->costs().measured(rows_, seconds);  // the same for all of the engine's
          break;
        }
    return logits;
  }

  void hand_out(size_t i, tensor::Matrix logits) {
    Generation& generation = *evaluating_[i];
    const models::SequenceStep& step = steps_[i];
    if (left_[i]) return generation.end(Finish::interrupted);
    const auto before = std::ssize(generation.tokens_.ids);
    if (step.logits == Logits::all) {
      generation.verify(step.ids, logits);
    } else {
      generation.evaluated(step.ids);
      if (logits.rows > 0) generation.choose({logits.row(0), static_cast<size_t>(logits.cols)});
    }
    if (step.normed.rows > 0 && !generation.finished())
      generation.options_.speculator->see(generation.all_, before,
                                          step.normed.row_range(0, std::ssize(generation.tokens_.ids) - before));
  }

  Engine& engine_;
  layers::Observer* observer_;
  std::vector<Generation*> taking_part_;
  int64_t decoding_ = 0;  // of them, that have one token to evaluate
  bool all_decode_ = false;
  int64_t rows_ = 0;  // of those that decode, drafts included
  std::vector<Generation*> evaluating_;
  std::vector<models::SequenceStep> steps_;           // of each that is evaluating
  std::vector<char> left_;                            // whether it was interrupted within the step
  std::vector<std::function<bool(int64_t)>> leaves_;  // what its step asks between layers
};

void step(Engine& engine, std::span<Generation* const> generations, layers::Observer* observer) {
  GenerationStep(engine, observer).run(generations);
}

}  // namespace coterie::runtime
