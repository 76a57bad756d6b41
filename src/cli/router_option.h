#pragma once

#include <string>

#include "families/open.h"

namespace coterie::cli {

/// --router: rules that inference is to keep to, separated by commas:
///   sample:T            draws experts in proportion to exp(logit / T)
///   noise               the router's own noise, as in training
///   jitter, jitter:E    of the router's input: the model's own, or by E in its place
///   capacity, capacity:F[:position|:probability][:next-best]   the model's own, or F times the even share
/// Refuses everything else (bad_input), with this list.
void read_router_option(const std::string& text, families::OpenOptions& options);

}  // namespace coterie::cli
