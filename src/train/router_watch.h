#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "base/json.h"
#include "layers/moe/balance.h"
#include "lens/router_loads.h"
#include "models/parameters.h"
#include "models/spec.h"
#include "train/ranks/team.h"
#include "train/recipe.h"

namespace coterie::train {

/// Listens to the routers of a training run: gives them the gradients of their losses in the scope that the recipe
/// says, moves their biases of selection, and adds figures up for the log.
///
/// A step is begin_step; when must_count_first and there are several parts, a forward of all of them without a tape,
/// since a loss over the batch needs the loads of all of it, begin_count before each of them and share_counts after the
/// last; begin_gradients; begin_part before each part; end_step.
///
/// With several shards, of which a rank has some, sums are apart for each part, or shard, until those of all are added
/// in order: so they do not depend on the ranks.
class RouterWatch : public layers::Observer {
 public:
  /// `team` must outlive it.
  RouterWatch(const Recipe& recipe, const models::ModelSpec& spec, Team& team);

  void begin_step();
  bool must_count_first() const;
  void begin_count();
  void share_counts();
  void begin_gradients();
  /// Of which shard the part is.
  void begin_part(int64_t shard);
  /// After the optimiser's step: the biases of selection.
  void end_step(const models::Parameters& parameters);

  void routed(const layers::Routed& router) override;
  void mixed(const layers::Mixture& mixture) override {
    if (!counting_) loads_[at_].mixed(mixture);
  }
  /// Null when the recipe has none.
  const layers::RouterLoss* loss() const { return has_loss_ ? &losses_ : nullptr; }

  const std::vector<int64_t>& expert_layers() const { return expert_layers_; }
  /// The fields of a "routers" event of the log, over the steps since clear_figures: each a list, by layer. A Soft MoE
  /// has "reading" in the place of what only choices have (dead, dropped, overflow, balance_loss, z_loss). All ranks
  /// call it.
  base::Json figures(const models::Parameters& parameters) const;
  void clear_figures() {
    for (lens::RouterLoads& loads : loads_) loads.clear();
  }

 private:
  BalanceRecipe recipe_;
  bool has_loss_, several_parts_, counting_ = false;
  std::vector<int64_t> expert_layers_;
  layers::RouterLosses losses_;
  Team& team_;
  int64_t shards_;
  std::vector<std::vector<double>> counted_;  // of each part of this rank
  std::vector<lens::RouterLoads> loads_;      // of each of this rank's shards
  size_t at_ = 0;                             // the shard in hand
  // How often each expert was chosen in this step, by layer, before a capacity took any away. For the biases.
  std::map<int64_t, std::vector<double>> chosen_;
};

}  // namespace coterie::train
