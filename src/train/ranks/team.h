#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "comm/inbox.h"
#include "comm/placement.h"
#include "comm/ranks.h"
#include "models/parameters.h"

namespace coterie::train {

/// The ranks that train together, as one of them sees the others: all do the same steps, and meet where one needs what
/// others have. Of one rank nothing is sent. It may outlive a run and serve the next.
class Team {
 public:
  /// This process trains alone.
  Team() = default;
  /// `ranks` must outlive it; all that they receive from here on goes through the team.
  explicit Team(comm::Ranks& ranks);

  int rank() const { return ranks_ ? ranks_->rank() : 0; }
  int size() const { return ranks_ ? ranks_->size() : 1; }
  bool alone() const { return size() == 1; }
  bool first() const { return rank() == 0; }
  /// The routed experts of `experts` that this rank owns.
  models::ExpertRange own(int64_t experts) const;

  /// Of several ranks alone: what carries messages, and what came too early or from elsewhere.
  comm::Ranks& ranks() { return *ranks_; }
  comm::Inbox& inbox() { return *inbox_; }

  /// A run begins, at this step of its own.
  void begin_run(int64_t step);
  /// Step number `step` of the run begins: messages and errors name it.
  void begin_step(int64_t step);

  /// Everybody's bytes, by rank. As the others below: all ranks call it, in the same order.
  std::vector<std::string> gather(const std::string& own);
  /// Everybody's numbers, by rank.
  std::vector<std::vector<double>> gather(std::span<const double> own);
  /// Whether it is so on any rank.
  bool any(bool own);
  /// Rank 0's number, on all.
  double of_first(double own);
  /// Waits until all are here, for as long as that takes.
  void wait_for_all();
  /// Makes something on rank 0 and then, when that is done, on the others, which find what it has written.
  template <typename Make>
  auto first_of_all(Make&& make) {
    if (!first()) wait_for_all();
    auto made = make();
    if (first()) wait_for_all();
    return made;
  }
  /// Does `body` on every rank. Where one of them throws, all throw the first rank's error, by name.
  void together(const std::function<void()>& body);

  /// This rank cannot go on: the others, wherever they wait, throw its error by its name.
  void fail(const base::Error& error);

 private:
  comm::Message from(int rank, bool whenever);
  void send_all(const std::string& own);

  comm::Ranks* ranks_ = nullptr;
  std::optional<comm::Inbox> inbox_;
  uint64_t before_run_ = 0;  // steps of earlier runs
  uint64_t number_ = 0;      // of the gatherings
};

}  // namespace coterie::train
