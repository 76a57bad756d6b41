#pragma once

#include <cstdint>
#include <map>
#include <span>

#include "layers/moe/router_hook.h"
#include "lens/choices.h"
#include "lens/routes.h"

namespace coterie::lens {

/// Sends the tokens of one sequence where those of recorded or drawn routes went, whatever the router says; the weights
/// are the router's own, rank by rank. For measurements with weights that mean nothing.
class RouteFeed final : public layers::RouterHook {
 public:
  /// `routes` must outlive it. Of routes of more layers the first are taken. Throws bad_input, saying what to do, when
  /// experts or choices are not those of the model. `recall`: how often an expert is guessed (guessed()), 0 to 1.
  RouteFeed(const Routes& routes, const RouterShape& model, double recall = 0);

  /// From now on the token at `position` of the sequence goes where token `token` of the routes went, the next where
  /// the next went; behind the last comes the first again.
  void start(int64_t position, int64_t token) { position_ = position, token_ = token; }
  void choices(int64_t layer, int64_t first_position, int64_t rows, std::span<int32_t> ids,
               std::span<float> weights) const override;
  /// A simulated look-ahead: at its rank each expert is guessed or, in its place, the one that a token drawn evenly
  /// was sent to, so that wrong guesses are as popular as right ones. The first rank is guessed more often than the
  /// last, by 0.24, as published ones are. None is where the recall is 0: what the router guesses has nothing to do
  /// with the routes.
  void guessed(int64_t layer, int64_t first_position, int64_t rows, std::span<int32_t> ids) const override;

 private:
  std::span<const int16_t> experts_at(int64_t layer, int64_t position) const;

  const Routes& routes_;
  std::map<int64_t, int64_t> index_;  // of a block among the layers with routers
  int64_t position_ = 0, token_ = 0;
  double recall_;
};

}  // namespace coterie::lens
