#include "surgery/merge/router_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "surgery/merge/prompt_states.h"
#include "surgery/rows.h"

namespace coterie::surgery {

namespace {

using Mode = MoeRecipe::Gates;

class Maker {
 public:
  Maker(ops::Context& context, const families::Model& base, const MoeRecipe& recipe, uint64_t seed)
      : context_(context), base_(base), recipe_(recipe), seed_(seed), layers_(base.decoder->spec().blocks.size()) {}

  // The router row of one expert in every layer, [L][D].
  std::vector<std::vector<float>> row(const ExpertRecipe& expert, const std::string& name) {
    if (!recipe_.reads_prompts()) return drawn(name);
    std::vector<std::vector<double>> toward = states(expert.positive_prompts, expert.where);
    if (!expert.negative_prompts.empty()) {
      const std::vector<std::vector<double>> away = states(expert.negative_prompts, expert.where);
      for (size_t l = 0; l < layers_; ++l)
        for (size_t i = 0; i < toward[l].size(); ++i) toward[l][i] -= away[l][i];
    }
    std::vector<std::vector<float>> rows;
    for (const std::vector<double>& direction : toward) {
      double squares = 0;
      for (const double v : direction) squares += v * v;
      if (!(squares > 1e-16))
        base::fail(base::ErrorKind::bad_input, expert.where,
                   "its positive and negative prompts look the same to the model: no gate can be made of them");
      std::vector<float>& row = rows.emplace_back();
      for (const double v : direction) row.push_back(static_cast<float>(v / std::sqrt(squares)));
    }
    return rows;
  }

 private:
  std::vector<std::vector<double>> states(const std::vector<std::string>& prompts, const std::string& where) {
    if (recipe_.gates == Mode::cheap_embed)
      return std::vector<std::vector<double>>(layers_, prompt_embedding(base_, prompts, where));
    const StateOf state = recipe_.gates == Mode::hidden_last ? StateOf::last_token : StateOf::all_tokens;
    return prompt_states(context_, base_, prompts, state, where);
  }

  std::vector<std::vector<float>> drawn(const std::string& name) const {
    const auto width = static_cast<size_t>(base_.decoder->spec().width);
    const float bound = 1 / std::sqrt(static_cast<float>(width));
    std::vector<std::vector<float>> rows;
    for (size_t l = 0; l < layers_; ++l) {
      base::Rng rng = row_rng(seed_, fmt::format("blocks.{}.moe.{}", l, name), 0, 0);
      std::vector<float>& row = rows.emplace_back(width);
      for (float& v : row) v = recipe_.gates == Mode::random ? rng.normal() : bound * (2 * rng.uniform() - 1);
    }
    return rows;
  }

  ops::Context& context_;
  const families::Model& base_;
  const MoeRecipe& recipe_;
  uint64_t seed_;
  size_t layers_;
};

double cosine(const std::vector<float>& a, const std::vector<float>& b) {
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const auto x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    ab += x * y, aa += x * x, bb += y * y;
  }
  return ab / std::sqrt(aa * bb);
}

// Rows that point the same way choose the same experts for every token.
void note_near(RouterRows& made) {
  constexpr double kNear = 0.999;
  int64_t near = 0;
  for (const auto& rows : made.rows) {
    double nearest = -1;
    for (size_t a = 0; a < rows.size(); ++a)
      for (size_t b = 0; b < a; ++b) nearest = std::max(nearest, cosine(rows[a], rows[b]));
    near += nearest > kNear;
  }
  if (near > 0)
    made.notes.push_back(
        fmt::format("in {} of {} layers two gates are almost the same (cosine above {}): prompts that are more "
                    "different, or negative ones, tell experts apart",
                    near, made.rows.size(), kNear));
}

}  // namespace

RouterRows make_router_rows(ops::Context& context, const families::Model& base, const MoeRecipe& recipe,
                            bool shared_gate, uint64_t seed, const OnProgress& on_progress) {
  Maker maker(context, base, recipe, seed);
  RouterRows made;
  made.rows.resize(base.decoder->spec().blocks.size());
  for (size_t e = 0; e < recipe.experts.size(); ++e) {
    if (on_progress)
      on_progress(fmt::format("gate {} of {}", e + 1, recipe.experts.size()), static_cast<int64_t>(e),
                  std::ssize(recipe.experts));
    const std::vector<std::vector<float>> rows = maker.row(recipe.experts[e], fmt::format("router.{}", e));
    for (size_t l = 0; l < rows.size(); ++l) made.rows[l].push_back(rows[l]);
  }
  if (shared_gate) made.shared = maker.row(*recipe.shared, "shared_gate");
  note_near(made);
  return made;
}

}  // namespace coterie::surgery
