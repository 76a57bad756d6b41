#include "lens/route_feed.h"

#include "base/error.h"

namespace coterie::lens {

RouteFeed::RouteFeed(const Routes& routes, const RouterShape& model) : routes_(routes) {
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
  const int64_t at = index_.at(layer), n = routes_.tokens(), places = std::ssize(ids) / rows;
  base::require(places == routes_.choices, "route feed", "{} places for {} experts", places, routes_.choices);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t token = ((token_ + first_position - position_ + r) % n + n) % n;
    const auto experts = routes_.at(token, at);
    std::copy(experts.begin(), experts.end(), ids.begin() + r * places);
  }
}

}  // namespace coterie::lens
