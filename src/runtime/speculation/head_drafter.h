#pragma once

#include <vector>

#include "runtime/engine.h"
#include "runtime/speculation/drafter.h"

namespace coterie::runtime {

/// The model's own head for multi-token prediction drafts (families/prediction.h): it reads each token with what the
/// model made of the one before. For tokens beyond the first it reads its own drafts with what it made of them itself.
/// It draws by the text's rules and random numbers, as ModelDrafter does. After a while without drafts it forgets all
/// but the last tokens.
class HeadDrafter final : public Drafter {
 public:
  /// `engine` is of the head and must outlive it.
  explicit HeadDrafter(Engine& engine) : engine_(engine), cache_(engine.make_cache()) {}

  Draft propose(std::span<const TokenId> tokens, int64_t most, const Sampler& sampler) override;
  bool is_free() const override { return false; }
  bool sees() const override { return true; }
  void see(std::span<const TokenId> tokens, int64_t first, tensor::ConstMatrix rows) override;

 private:
  int64_t width() const { return engine_.spec().width; }
  /// Evaluates the tokens after the rows it has, as far as they are known; the logits of the last, where asked for, and
  /// what the head made of it in normed_.
  tensor::Matrix read(std::span<const TokenId> tokens, bool logits);
  void forget(std::span<const TokenId> tokens, int64_t first);

  Engine& engine_;
  KvCache cache_;
  // Position p of the cache is of token begin_ + p + 1 and the model's row begin_ + p.
  int64_t begin_ = 0;
  std::vector<TokenId> text_;  // that the cache and the rows were made of
  std::vector<float> rows_;    // that are not read yet, from position begin_ + cache_.length() on, [., D]
  std::vector<float> normed_;  // [D]
  int64_t idle_ = 0;           // tokens that it has seen one by one since the last draft
};

}  // namespace coterie::runtime
