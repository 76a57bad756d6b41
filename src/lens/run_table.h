#pragma once

#include <span>
#include <string>

#include "lens/run_log.h"

namespace coterie::lens {

/// Where runs are, a line each: steps and tokens done, the losses of the last evaluation and, of the last figures of
/// the routers, means over the layers: the most loaded expert's load over the mean, the loads' coefficient of
/// variation, the entropy of a token's probabilities in nats, the shares of assignments that a capacity dropped or sent
/// to the next best; the dead experts of all layers; and whether the run came to its end.
std::string run_table(std::span<const RunLog> runs);

}  // namespace coterie::lens
