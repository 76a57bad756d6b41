#include "runtime/expert_store/prefetch_reads.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace coterie::runtime {

int64_t PrefetchReads::Read::count(State state) const { return std::count(states.begin(), states.end(), state); }

void PrefetchReads::add(int32_t layer, int32_t expert, int32_t slot, int32_t after, std::vector<ExpertPiece> pieces) {
  const uint64_t number = next_++;
  for (size_t p = 0; p < pieces.size(); ++p) pieces[p].read.tag = kTag | (number << kPieceBits) | p;
  std::vector<State> states(pieces.size(), State::waiting);
  Read& read =
      reads_.try_emplace(number, Read{layer, expert, slot, after, std::move(pieces), std::move(states)}).first->second;
  if (after == kNone) submit(read, true);
}

bool PrefetchReads::waits() const {
  return std::any_of(reads_.begin(), reads_.end(), [](const auto& each) { return each.second.after != kNone; });
}

void PrefetchReads::submit(Read& read, bool ahead) {
  std::vector<ReadPiece> pieces;
  for (size_t p = 0; p < read.pieces.size(); ++p) {
    if (read.states[p] != State::waiting) continue;
    read.states[p] = State::under_way;
    pieces.push_back(read.pieces[p].read);
  }
  read.after = kNone;
  if (pieces.empty()) return;
  ahead ? reader_.submit_ahead(pieces) : reader_.submit(pieces);
}

void PrefetchReads::begin(base::FunctionRef<bool(int32_t use)> computed) {
  for (auto& [number, read] : reads_)
    if (read.after != kNone && computed(read.after)) submit(read, true);
}

bool PrefetchReads::end(const Read& read) {
  if (read.count(State::under_way) > 0) return false;
  const bool whole = read.count(State::waiting) == 0 && !read.pieces.empty() &&
                     std::none_of(read.pieces.begin(), read.pieces.end(),
                                  [&](const ExpertPiece& piece) { return reader_.changed(piece.read.file); });
  whole ? policy_.arrived(read.slot) : policy_.forget(read.slot);
  return true;
}

void PrefetchReads::settle(int32_t layer, std::span<const int32_t> asked, bool wait) {
  for (const uint64_t tag : reader_.withdraw()) {
    Read& read = reads_.at((tag & ~kTag) >> kPieceBits);
    read.states[tag & ((uint64_t{1} << kPieceBits) - 1)] = State::waiting;
  }
  std::erase_if(came_, [&](const Came& each) { return each.layer != layer; });
  for (auto at = reads_.begin(); at != reads_.end();) {
    Read& read = at->second;
    read.after = kNone;  // that lease has ended
    // One that was unwanted before may be wanted now: its slot is as good as any that is being filled.
    const bool wanted = read.layer == layer && std::binary_search(asked.begin(), asked.end(), read.expert);
    if (wanted || !end(read)) {
      read.unwanted = !wanted;
      ++at;
    } else {
      at = reads_.erase(at);
    }
  }
  const auto unwanted = [&] {
    return std::any_of(reads_.begin(), reads_.end(), [](const auto& each) { return each.second.unwanted; });
  };
  while (wait && unwanted()) ended(reader_.wait());
  while (const auto done = reader_.poll()) ended(*done);
}

bool PrefetchReads::ahead(int32_t slot) const {
  return std::any_of(came_.begin(), came_.end(), [&](const Came& each) { return each.slot == slot; }) ||
         std::any_of(reads_.begin(), reads_.end(),
                     [&](const auto& each) { return each.second.slot == slot && !each.second.unwanted; });
}

int64_t PrefetchReads::adopt(int32_t slot, int32_t use) {
  for (auto& [number, read] : reads_) {
    if (read.slot != slot || read.unwanted || read.use != kNone) continue;
    read.use = use;
    submit(read, false);
    return read.count(State::under_way);
  }
  return 0;
}

PrefetchReads::Ended PrefetchReads::ended(const ReadDone& done) {
  base::require(owns(done.tag), "prefetch", "a read of somebody else's");
  const uint64_t number = (done.tag & ~kTag) >> kPieceBits;
  const auto at = reads_.find(number);
  base::require(at != reads_.end(), "prefetch", "a read that nobody knows");
  Read& read = at->second;
  const size_t p = done.tag & ((uint64_t{1} << kPieceBits) - 1);
  const bool good = done.error == 0 && done.bytes >= read.pieces[p].needed;
  const Ended result{read.use, read.pieces[p]};
  if (read.use == kNone) bytes_ += std::max<int64_t>(done.bytes, 0);
  // What failed before anybody asked for it is read again when somebody does.
  read.states[p] = good || read.use != kNone ? State::here : State::waiting;
  if (read.use != kNone) return result;
  if (read.unwanted) {
    if (end(read)) reads_.erase(at);
  } else if (read.count(State::here) == std::ssize(read.pieces)) {
    end(read);
    came_.push_back({read.layer, read.slot});
    reads_.erase(at);
  }
  return result;
}

void PrefetchReads::forget_adopted() {
  std::erase_if(reads_, [](const auto& each) { return each.second.use != kNone; });
}

void PrefetchReads::drop() {
  settle(kNone, {}, true);
  came_.clear();
}

}  // namespace coterie::runtime
