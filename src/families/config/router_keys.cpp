#include "families/config/router_keys.h"

#include <fmt/format.h>

#include <array>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "layers/moe/routers/kind.h"

namespace coterie::families {

namespace {

using layers::RouterSpec;

template <typename E, size_t N>
using Names = std::array<std::pair<std::string_view, E>, N>;

using Score = RouterSpec::Score;
constexpr Names<Score, 3> kScores = {
    {{"softmax", Score::softmax}, {"sigmoid", Score::sigmoid}, {"sqrt_softplus", Score::sqrt_softplus}}};
using Order = RouterSpec::Order;
constexpr Names<Order, 2> kOrders = {
    {{"score_then_select", Order::score_then_select}, {"select_then_score", Order::select_then_score}}};
using Selection = RouterSpec::Selection;
using Combine = RouterSpec::Combine;
constexpr Names<Combine, 2> kCombines = {{{"weighted", Combine::weighted}, {"sum", Combine::sum}}};
using CapacityOrder = RouterSpec::Capacity::Order;
constexpr Names<CapacityOrder, 2> kCapacityOrders = {
    {{"position", CapacityOrder::position}, {"probability", CapacityOrder::probability}}};
using GroupScore = RouterSpec::GroupScore;
constexpr Names<GroupScore, 2> kGroupScores = {{{"best", GroupScore::best}, {"best_two", GroupScore::best_two}}};

Selection read_selection(base::JsonReader& reader) {
  const std::string found = reader.string("selection", std::string(layers::kind_of({}).name));
  std::string all;
  for (size_t i = 0; i < layers::router_kinds().size(); ++i) {
    const std::string_view name = layers::router_kinds()[i]->name;
    if (name == found) return static_cast<Selection>(i);
    all += (all.empty() ? "" : ", ") + std::string(name);
  }
  base::fail(base::ErrorKind::bad_input, reader.where(), "selection is \"{}\", expected one of: {}", found, all);
}

template <typename E, size_t N>
E read_name(base::JsonReader& reader, std::string_view key, const Names<E, N>& names, E otherwise) {
  if (!reader.has(key)) return reader.value(key), otherwise;
  const std::string found = reader.string(key);
  std::string all;
  for (const auto& [name, value] : names) {
    if (name == found) return value;
    all += (all.empty() ? "" : ", ") + std::string(name);
  }
  base::fail(base::ErrorKind::bad_input, reader.where(), "{} is \"{}\", expected one of: {}", key, found, all);
}

template <typename E, size_t N>
std::string name_of(const Names<E, N>& names, E value) {
  for (const auto& [name, of] : names)
    if (of == value) return std::string(name);
  base::fail(base::ErrorKind::bad_input, "router", "a value without a name");
}

/// Whether the key is there; refused when it is and `means_something` is not so.
bool asked(const base::JsonReader& reader, std::string_view key, bool means_something, std::string_view needs) {
  if (!reader.has(key)) return false;
  if (!means_something)
    base::fail(base::ErrorKind::bad_input, reader.where(), "{} has no effect without {}: remove it", key, needs);
  return true;
}

float real(base::JsonReader& reader, std::string_view key, float otherwise) {
  return static_cast<float>(reader.number(key, static_cast<double>(otherwise)));
}

void read_groups(base::JsonReader& reader, RouterSpec& spec) {
  spec.groups = reader.integer("groups", spec.groups);
  spec.groups_kept = reader.integer("groups_kept", spec.groups);
  if (asked(reader, "group_score", spec.groups > 1, "groups"))
    spec.group_score = read_name(reader, "group_score", kGroupScores, spec.group_score);
}

void read_capacity(base::JsonReader& reader, RouterSpec& spec) {
  const base::Json* const object = reader.object("capacity");
  if (!object) return;
  base::JsonReader capacity(*object, reader.where() + ".capacity");
  spec.capacity = RouterSpec::Capacity{};
  spec.capacity->factor = capacity.number("factor");
  spec.capacity->order = read_name(capacity, "order", kCapacityOrders, spec.capacity->order);
  spec.capacity->next_best = capacity.boolean("next_best", spec.capacity->next_best);
  capacity.refuse_unread();
}

}  // namespace

RouterSpec read_router(const base::Json& object, const std::string& where) {
  base::JsonReader reader(object, where);
  RouterSpec spec;
  spec.experts = reader.integer("experts");
  spec.experts_per_token = reader.integer("experts_per_token");
  spec.selection = read_selection(reader);
  spec.score = read_name(reader, "score", kScores, spec.score);
  spec.order = read_name(reader, "order", kOrders, spec.order);
  spec.bias = reader.boolean("bias", spec.bias);
  spec.selection_bias = reader.boolean("selection_bias", spec.selection_bias);
  read_groups(reader, spec);
  spec.renormalise = reader.boolean("renormalise", spec.renormalise);
  if (asked(reader, "renormalise_epsilon", spec.renormalise, "renormalise"))
    spec.renormalise_epsilon = reader.number("renormalise_epsilon");
  if (asked(reader, "renormalise_floor", spec.renormalise, "renormalise"))
    spec.renormalise_floor = reader.boolean("renormalise_floor");
  spec.scale = real(reader, "scale", spec.scale);
  if (asked(reader, "temperature", spec.selection == Selection::sample, "selection: sample"))
    spec.temperature = real(reader, "temperature", spec.temperature);
  if (asked(reader, "hash_seed", spec.selection == Selection::hash, "selection: hash"))
    spec.hash_seed = reader.integer("hash_seed");
  if (asked(reader, "slots", spec.selection == Selection::soft, "selection: soft"))
    spec.slots = reader.integer("slots");
  if (asked(reader, "near_best", spec.selection == Selection::sparsemixer, "selection: sparsemixer"))
    spec.near_best = real(reader, "near_best", spec.near_best);
  spec.hidden = reader.integer("hidden", spec.hidden);
  spec.softcap = real(reader, "softcap", spec.softcap);
  spec.combine = read_name(reader, "combine", kCombines, spec.combine);
  spec.noise = reader.boolean("noise", spec.noise);
  if (asked(reader, "noise_bias", spec.noise, "noise")) spec.noise_bias = reader.boolean("noise_bias");
  spec.jitter = real(reader, "jitter", spec.jitter);
  read_capacity(reader, spec);
  reader.refuse_unread();
  layers::check(spec, where);
  return spec;
}

base::Json write_router(const RouterSpec& spec) {
  const RouterSpec usual;
  base::Json json = {{"experts", spec.experts},
                     {"experts_per_token", spec.experts_per_token},
                     {"selection", layers::kind_of(spec.selection).name},
                     {"score", name_of(kScores, spec.score)},
                     {"order", name_of(kOrders, spec.order)},
                     {"renormalise", spec.renormalise}};
  // f32 values are written as the shortest decimals that round to them, not as the f64 they widen to.
  const auto real = [](float value) { return std::stod(fmt::format("{}", value)); };
  if (spec.bias) json["bias"] = true;
  if (spec.selection_bias) json["selection_bias"] = true;
  if (spec.groups > 1)
    json["groups"] = spec.groups, json["groups_kept"] = spec.groups_kept,
    json["group_score"] = name_of(kGroupScores, spec.group_score);
  if (spec.renormalise && spec.renormalise_epsilon != usual.renormalise_epsilon)
    json["renormalise_epsilon"] = spec.renormalise_epsilon;
  if (spec.renormalise && spec.renormalise_floor) json["renormalise_floor"] = true;
  if (spec.scale != 1) json["scale"] = real(spec.scale);
  if (spec.selection == Selection::sample) json["temperature"] = real(spec.temperature);
  if (spec.selection == Selection::sparsemixer) json["near_best"] = real(spec.near_best);
  if (spec.selection == Selection::hash) json["hash_seed"] = spec.hash_seed;
  if (spec.selection == Selection::soft) json["slots"] = spec.slots;
  if (spec.hidden > 0) json["hidden"] = spec.hidden;
  if (spec.softcap > 0) json["softcap"] = real(spec.softcap);
  if (spec.combine != Combine::weighted) json["combine"] = name_of(kCombines, spec.combine);
  if (spec.noise) json["noise"] = true;
  if (spec.noise_bias) json["noise_bias"] = true;
  if (spec.jitter > 0) json["jitter"] = real(spec.jitter);
  if (spec.capacity)
    json["capacity"] = {{"factor", spec.capacity->factor},
                        {"order", name_of(kCapacityOrders, spec.capacity->order)},
                        {"next_best", spec.capacity->next_best}};
  return json;
}

}  // namespace coterie::families
