#include "train/router_watch.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "layers/moe/selection_bias.h"

namespace coterie::train {

using base::Json;

namespace {

std::vector<int64_t> layers_with_experts(const models::ModelSpec& spec) {
  std::vector<int64_t> result;
  for (size_t b = 0; b < spec.blocks.size(); ++b)
    if (std::holds_alternative<layers::MoeSpec>(spec.blocks[b].ffn)) result.push_back(static_cast<int64_t>(b));
  return result;
}

const layers::RouterSpec* router_of(const models::ModelSpec& spec) {
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) return &moe->router;
  return nullptr;
}

layers::RouterSpec::Score score_of(const models::ModelSpec& spec) {
  const layers::RouterSpec* router = router_of(spec);
  return router ? router->score : layers::RouterSpec::Score::softmax;
}

layers::RouterLossSpec losses_of(const Recipe& recipe, const models::ModelSpec& spec) {
  layers::RouterLossSpec losses;
  losses.score = score_of(spec);
  losses.scope = recipe.balance.scope;
  if (recipe.balance.loss_weight > 0) losses.balance = recipe.balance.kind;
  losses.balance_coefficient = recipe.balance.loss_weight;
  losses.z_coefficient = recipe.balance.z_weight;
  return losses;
}

double norm_of_gradient(const models::Parameters& parameters, const std::string& path) {
  double sum = 0;
  for (const models::Parameter& p : parameters.list())
    if (p.place == layers::Place::router && p.path.find(path) != std::string::npos)
      for (int64_t i = 0; i < p.count; ++i) sum += static_cast<double>(p.gradient[i]) * p.gradient[i];
  return std::sqrt(sum);
}

}  // namespace

RouterWatch::RouterWatch(const Recipe& recipe, const models::ModelSpec& spec, Team& team)
    : recipe_(recipe.balance),
      has_loss_(recipe.balance.loss_weight > 0 || recipe.balance.z_weight > 0),
      several_parts_(recipe.micro_batch < recipe.batch),
      expert_layers_(layers_with_experts(spec)),
      losses_(losses_of(recipe, spec)),
      team_(team),
      shards_(recipe.shards),
      loads_(static_cast<size_t>(recipe.shards / team.size()), lens::RouterLoads(score_of(spec))) {
  // A loss of each part by itself counts as one of that many.
  losses_.set_share(static_cast<double>(recipe.micro_batch) / static_cast<double>(recipe.batch));
  if (expert_layers_.empty() && (has_loss_ || recipe.balance.bias_rate > 0))
    throw base::Error(base::ErrorKind::bad_input, recipe.name, "the recipe has balance, and the model has no routers",
                      "remove the section");
  if (recipe.balance.bias_rate > 0 && !router_of(spec)->selection_bias)
    throw base::Error(
        base::ErrorKind::bad_input, recipe.name, "bias_rate moves a bias that these routers do not have",
        "give the model one: \"selection_bias\": true in the router of its config, where the model_type has the key");
  if (const layers::RouterSpec* router = router_of(spec))
    layers::check_trainable(*router, losses_of(recipe, spec), recipe.name);
}

bool RouterWatch::must_count_first() const {
  return has_loss_ && several_parts_ && recipe_.scope == layers::RouterLossSpec::Scope::batch;
}

void RouterWatch::begin_step() {
  losses_.clear();
  counting_ = must_count_first();
  chosen_.clear(), counted_.clear();
}

void RouterWatch::begin_count() {
  if (shards_ == 1) return;  // one sum goes through all parts
  if (!losses_.sums().empty()) counted_.push_back(losses_.sums());
  losses_.clear();
}

void RouterWatch::share_counts() {
  if (shards_ == 1) return;
  begin_count();
  // The parts of all ranks have as many numbers each.
  std::vector<double> own;
  for (const std::vector<double>& part : counted_) own.insert(own.end(), part.begin(), part.end());
  const std::vector<std::vector<double>> all = team_.gather(std::span<const double>(own));
  const size_t parts = counted_.size(), numbers = parts > 0 ? own.size() / parts : 0;
  for (size_t part = 0; part < parts; ++part)
    for (const std::vector<double>& of_rank : all)
      losses_.add_sums(std::span(of_rank).subspan(part * numbers, numbers));
}

void RouterWatch::begin_gradients() { counting_ = false; }

void RouterWatch::begin_part(int64_t shard) {
  at_ = static_cast<size_t>(shard / team_.size());
  if (recipe_.scope != layers::RouterLossSpec::Scope::batch) losses_.clear();
}

void RouterWatch::routed(const layers::Routed& router) {
  if (counting_ || !must_count_first()) losses_.routed(router);
  if (counting_) return;
  loads_[at_].routed(router);
  if (recipe_.bias_rate == 0) return;
  std::vector<double>& counts = chosen_[router.layer];
  counts.resize(static_cast<size_t>(router.logits.cols));
  for (const int32_t expert : router.chosen)
    if (expert >= 0) ++counts[static_cast<size_t>(expert)];
}

void RouterWatch::end_step(const models::Parameters& parameters) {
  if (recipe_.bias_rate == 0) return;
  std::vector<double> own;
  for (const auto& [layer, counts] : chosen_) own.insert(own.end(), counts.begin(), counts.end());
  const std::vector<std::vector<double>> all = team_.gather(std::span<const double>(own));
  size_t next = 0;
  for (auto& [layer, counts] : chosen_)
    for (double& count : counts) {
      count = 0;
      for (const std::vector<double>& of_rank : all) count += of_rank[next];
      ++next;
    }
  for (const models::Parameter& p : parameters.list()) {
    if (!p.path.ends_with(".selection_bias")) continue;
    constexpr std::string_view kBlocks = "blocks.";  // of a prediction head "prediction.blocks."
    const int64_t layer = std::stoll(p.path.substr(p.path.find(kBlocks) + kBlocks.size()));
    layers::update_selection_bias({p.values, static_cast<size_t>(p.count)}, chosen_.at(layer), recipe_.bias_rate);
  }
}

Json RouterWatch::figures(const models::Parameters& parameters) const {
  Json event = {{"load", Json::array()}};
  lens::RouterLoads loads = loads_.front();
  if (shards_ > 1) {
    loads.clear();
    std::vector<double> own;
    for (const lens::RouterLoads& of_shard : loads_) {
      const std::vector<double> numbers = of_shard.numbers();
      own.insert(own.end(), numbers.begin(), numbers.end());
    }
    const std::vector<std::vector<double>> all = team_.gather(std::span<const double>(own));
    const size_t numbers = own.size() / loads_.size();
    for (size_t shard = 0; shard < loads_.size(); ++shard)
      for (const std::vector<double>& of_rank : all) loads.add(std::span(of_rank).subspan(shard * numbers, numbers));
  }
  for (const auto& [layer, load] : loads.layers()) {
    const double tokens = std::max(load.tokens, 1.0);
    double assigned = load.dropped;
    for (const double a : load.assignments) assigned += a;
    event["load"].push_back(load.load());
    const auto add = [&](const char* key, double value) { event[key].push_back(value); };
    add("load_cv", load.load_cv());
    add("max_load", load.max_load());
    add("entropy", load.mean_entropy());
    add("gradient_norm", norm_of_gradient(parameters, fmt::format("blocks.{}.", layer)));
    if (load.mixture) {
      add("reading", load.mean_reading());
      continue;
    }
    add("dead", static_cast<double>(load.dead()));
    add("dropped", load.dropped / std::max(assigned, 1.0));
    add("overflow", load.overflow / std::max(assigned, 1.0));
    add("balance_loss", load.balance());
    add("z_loss", load.squares / tokens);
  }
  return event;
}

}  // namespace coterie::train
