#include "lens/route_feed.h"

#include <algorithm>

#include "base/error.h"
#include "base/rng.h"

namespace coterie::lens {

RouteFeed::RouteFeed(const Routes& routes, const RouterShape& model, double recall) : routes_(routes), recall_(recall) {
  if (model.count() > routes.layers)
    throw base::Error(base::ErrorKind::bad_input, "routes",
                      fmt::format("are of {} layers, the model has {} with routers", routes.layers, model.count()),
                      fmt::format("a shape of {} `layers` fits", routes.layers));
  for (int64_t l = 0; l < model.count(); ++l)
    if (const int32_t experts = model.experts[static_cast<size_t>(l)]; experts != routes.experts)
      base::fail(base::ErrorKind::bad_input, "routes", "are of {} experts, a layer of the model has {}", routes.experts,
                 experts);
  if (model.choices != routes.choices)
    throw base::Error(base::ErrorKind::bad_input, "routes",
                      fmt::format("send a token to {} experts, the model to {}", routes.choices, model.choices),
                      fmt::format("`experts_per_token` {} makes them fit", routes.choices));
  for (int64_t l = 0; l < model.count(); ++l) index_[model.layers[static_cast<size_t>(l)]] = l;
}

void RouteFeed::choices(int64_t layer, int64_t first_position, int64_t rows, std::span<int32_t> ids,
                        std::span<float>) const {
  const int64_t places = std::ssize(ids) / rows;
  base::require(places == routes_.choices, "route feed", "{} places for {} experts", places, routes_.choices);
  for (int64_t r = 0; r < rows; ++r) {
    const auto experts = experts_at(layer, first_position + r);
    std::copy(experts.begin(), experts.end(), ids.begin() + r * places);
  }
}

std::span<const int16_t> RouteFeed::experts_at(int64_t layer, int64_t position) const {
  const int64_t n = routes_.tokens(), token = ((token_ + position - position_) % n + n) % n;
  return routes_.at(token, index_.at(layer));
}

void RouteFeed::guessed(int64_t layer, int64_t first_position, int64_t rows, std::span<int32_t> ids) const {
  std::fill(ids.begin(), ids.end(), -1);
  if (recall_ <= 0) return;
  constexpr double kSpread = 0.24;  // of recall from the first rank to the last
  const int64_t places = std::ssize(ids) / rows;
  for (int64_t r = 0; r < rows; ++r) {
    base::Rng rng(static_cast<uint64_t>(first_position + r), static_cast<uint64_t>(layer));
    const auto experts = experts_at(layer, first_position + r);
    for (int64_t k = 0; k < std::min(places, std::ssize(experts)); ++k) {
      const double last = static_cast<double>(std::max<int64_t>(std::ssize(experts) - 1, 1));
      const double chance = recall_ + (recall_ < 1 ? kSpread * (0.5 - static_cast<double>(k) / last) : 0);
      const bool right = rng.uniform_double() < chance;
      const auto other = static_cast<int64_t>(rng.below(static_cast<uint32_t>(routes_.tokens())));
      const auto from = right ? experts : routes_.at(other, index_.at(layer));
      ids[static_cast<size_t>(r * places + k)] = from[static_cast<size_t>(k)];
    }
  }
}

}  // namespace coterie::lens
