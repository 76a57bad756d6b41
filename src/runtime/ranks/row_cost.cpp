#include "runtime/ranks/row_cost.h"

#include <algorithm>

#include "models/account.h"

namespace coterie::runtime {

namespace {
/// How much longer a multiply-add of attention takes, on floats, than one of a projection of quantised weights. (Two
/// ranks, Emerald Rapids, December 2026: with 3 to 10 they wait equally little, with 0 rank 0 waits twice as long.)
constexpr double kOfAttention = 4;
}  // namespace

double RowCost::at(int64_t position) const {
  double cost = alone;
  for (const Keys& of : keys)
    cost += of.each * static_cast<double>(of.most > 0 ? std::min(position + 1, of.most) : position + 1);
  return cost;
}

RowCost row_cost(const models::ModelSpec& spec) {
  const models::Account account = models::account(spec);
  RowCost cost{.alone = 0};
  for (size_t place = 0; place < models::kPlaces; ++place)
    if (const auto of = static_cast<models::Place>(place);
        of != models::Place::experts && of != models::Place::input_embeddings && of != models::Place::output_embeddings)
      cost.alone += static_cast<double>(account.active[place]);
  cost.alone = std::max(cost.alone, 1.0);
  const auto add = [&](int64_t multiplications, int64_t most) {
    const auto same = std::find_if(cost.keys.begin(), cost.keys.end(), [&](const auto& k) { return k.most == most; });
    RowCost::Keys& keys = same != cost.keys.end() ? *same : cost.keys.emplace_back(RowCost::Keys{0, most});
    keys.each += kOfAttention * static_cast<double>(multiplications);
  };
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* attention = models::attention_of(spec, block))
      add(attention->heads * (attention->head_dim + attention->value_dim),
          attention->window > 0 ? attention->window : attention->chunk);
    else if (const auto* latent = std::get_if<layers::LatentAttentionSpec>(&block.mixer))
      add(latent->heads * (2 * latent->kv_rank + latent->rope_dim), 0);
  return cost;
}

}  // namespace coterie::runtime
