#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "surgery/ffn_rows.h"

namespace coterie::surgery {

/// Which tensor of a model's list a canonical path names, for whoever supplies the values of a new mixture.
struct MoeTensor {
  enum class Kind {
    outside,      // no part of a MoE: taken from the model that gives everything else
    router,       // one of the router's own, by `name`
    shared_gate,  // the row that weighs the shared expert
    shared,       // a matrix of the shared expert
    expert,       // a stack of the routed experts' matrices, or of their biases
  } kind = Kind::outside;
  int64_t layer = -1;
  Part part = Part::gate;  // of shared and expert
  bool bias = false;       // of expert
  std::string name = {};   // of router: "router", "router.noise", …
};

/// Throws internal for a part of an FFN that does not exist.
MoeTensor moe_tensor(std::string_view path);

}  // namespace coterie::surgery
