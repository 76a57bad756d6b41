#include "runtime/speculation/head_drafter.h"

#include <algorithm>

namespace coterie::runtime {

using Logits = models::SequenceStep::Logits;

namespace {

constexpr int64_t kMostIdle = 256, kKept = 64;  // tokens of a text one by one, of which no draft is asked for

}  // namespace

void HeadDrafter::forget(std::span<const TokenId> tokens, int64_t first) {
  // The row of a position depends on the tokens up to it, and what the head made of it on the one after it, too.
  int64_t same = 0;
  const int64_t common = std::min(std::ssize(text_), std::ssize(tokens));
  while (same < common && text_[static_cast<size_t>(same)] == tokens[static_cast<size_t>(same)]) ++same;
  const int64_t held = begin_ + cache_.length(), known = held + std::ssize(rows_) / width();
  const int64_t cached = std::min({held, first, same - 1}), kept = std::min({known, first, same});
  if (first > kept || cached < begin_) {
    // Rows in between were never seen, as of a beginning that another has computed: it starts here.
    cache_.truncate(0);
    rows_.clear();
    begin_ = first;
    return;
  }
  if (cached < held) {
    // Rows that were read are gone: where the last of them has to be read again, it starts after it.
    const bool lost = begin_ + cache_.truncate(cached - begin_) < std::min(kept, held);
    rows_.clear();
    if (lost) cache_.truncate(0), begin_ = first;
    return;
  }
  rows_.resize(static_cast<size_t>((kept - held) * width()));
}

void HeadDrafter::see(std::span<const TokenId> tokens, int64_t first, tensor::ConstMatrix rows) {
  forget(tokens, first);
  for (int64_t r = 0; r < rows.rows; ++r) rows_.insert(rows_.end(), rows.row(r), rows.row(r) + rows.cols);
  text_.assign(tokens.begin(), tokens.end());
  idle_ = rows.rows == 1 ? idle_ + 1 : 0;
  const int64_t unread = std::ssize(rows_) / width();
  if (idle_ > kMostIdle) {
    // Nobody asks for drafts at present: it goes on from the last tokens, rather than to read what it missed.
    begin_ += cache_.length() + unread - kKept;
    cache_.truncate(0);
    rows_.erase(rows_.begin(), rows_.end() - kKept * width());
    idle_ = kKept;
  } else if (unread >= engine_.step_tokens()) {
    read(tokens, false);  // of a long prompt, so that its rows are not kept all
  }
}

tensor::Matrix HeadDrafter::read(std::span<const TokenId> tokens, bool logits) {
  tensor::Matrix result;
  for (;;) {
    const int64_t at = begin_ + cache_.length();
    const int64_t left = std::min(std::ssize(rows_) / width(), std::ssize(tokens) - 1 - at);
    if (left <= 0) return result;
    const int64_t count = std::min({left, engine_.step_tokens(), cache_.until_snapshot()});
    const bool last = count == left;
    normed_.resize(static_cast<size_t>(count * width()));
    const models::SequenceStep step{.ids = tokens.subspan(static_cast<size_t>(at + 1), static_cast<size_t>(count)),
                                    .state = &cache_,
                                    .logits = last && logits ? Logits::last : Logits::none,
                                    .normed = {normed_.data(), count, width()},
                                    .before = {rows_.data(), count, width()}};
    result = engine_.evaluate({&step, 1});
    normed_.erase(normed_.begin(), normed_.end() - width());
    rows_.erase(rows_.begin(), rows_.begin() + count * width());
  }
}

Draft HeadDrafter::propose(std::span<const TokenId> tokens, int64_t most, const Sampler& sampler) {
  Draft draft;
  idle_ = 0;
  std::vector<TokenId> all(tokens.begin(), tokens.end());
  text_ = all;
  most = std::min(most, engine_.context_size() - std::ssize(tokens));
  if (most < 1) return draft;
  tensor::Matrix logits = read(all, true);
  if (logits.rows == 0) return draft;  // it has not seen what comes before
  const int64_t sure = cache_.length();
  if (cache_.has_states()) cache_.remember();
  Sampler chooses = sampler;
  for (;;) {
    all.push_back(chooses.sample({logits.row(0), static_cast<size_t>(logits.cols)}, all));
    draft.tokens.push_back(all.back());
    if (std::ssize(draft.tokens) == most) break;
    rows_ = normed_;
    logits = read(all, true);
  }
  rows_.clear();
  cache_.truncate(sure);
  return draft;
}

}  // namespace coterie::runtime
