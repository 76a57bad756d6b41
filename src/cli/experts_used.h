#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <span>
#include <string>

#include "base/json.h"
#include "cli/experts_live.h"
#include "lens/router_loads.h"
#include "runtime/engines.h"

namespace coterie::cli {

/// --experts, and --experts=live: `how` becomes "end" or "live".
CLI::Option* add_experts(CLI::App& app, std::string& how);
/// A strip where `how` is "live". Throws as experts_listener does, but for an ensemble, whose models it shows.
std::optional<LiveExperts> live_experts(const std::string& how, runtime::Engine& engine);

/// Whether the engine runs several models behind a gate.
bool is_gated(const runtime::Engine& engine);
/// Whether any block of the model has a router.
bool has_routers(const runtime::Engine& engine);
/// An observer of all routers of the model. Throws bad_input, naming --experts, when it has none: behind a gate the
/// model that answers, or all.
lens::RouterLoads experts_listener(const runtime::Engine& engine);

/// A line for each layer: how many of its tokens each expert got, as bars, and the ones used most and never.
/// The layers of each of several models under its name, by its own numbers.
std::string describe_experts(const lens::RouterLoads& loads, std::span<const runtime::Engines::Part> parts);
/// By layer: each expert's share of the tokens; behind a gate, whose layer it is.
base::Json experts_as_json(const lens::RouterLoads& loads, std::span<const runtime::Engines::Part> parts);

}  // namespace coterie::cli
