#include <cmath>

#include "base/error.h"
#include "layers/moe/routers/kind.h"

namespace coterie::layers {

namespace {

using base::ErrorKind;

void check_numbers(const RouterSpec& spec, std::string_view where) {
  if (!(spec.temperature > 0) || !std::isfinite(spec.temperature))
    base::fail(ErrorKind::bad_input, where, "a router temperature of {}: expected a number above 0", spec.temperature);
  if (!(spec.near_best >= 0) || !std::isfinite(spec.near_best))
    base::fail(ErrorKind::bad_input, where, "SparseMixer's jitter is {}: expected a number of at least 0",
               spec.near_best);
  if (!std::isfinite(spec.scale))
    base::fail(ErrorKind::bad_input, where, "the scale of the experts' weights is {}: expected a finite number",
               spec.scale);
  if (!(spec.renormalise_epsilon >= 0) || !std::isfinite(spec.renormalise_epsilon))
    base::fail(ErrorKind::bad_input, where,
               "the epsilon beside the sum of the experts' weights is {}: expected a number of at least 0",
               spec.renormalise_epsilon);
  if (!(spec.jitter >= 0) || spec.jitter >= 1)
    base::fail(ErrorKind::bad_input, where, "the router's jitter is {}: expected at least 0 and less than 1",
               spec.jitter);
  if (!(spec.softcap >= 0) || !std::isfinite(spec.softcap))
    base::fail(ErrorKind::bad_input, where, "the softcap of the router is {}: expected a number above 0, or 0 for none",
               spec.softcap);
  if (spec.hidden < 0)
    base::fail(ErrorKind::bad_input, where, "the router's hidden width is {}: expected at least 1, or 0 for none",
               spec.hidden);
}

void check_groups(const RouterSpec& spec, std::string_view where) {
  if (spec.groups < 1 || spec.experts % spec.groups != 0)
    base::fail(ErrorKind::bad_input, where, "{} experts do not divide into {} equal groups", spec.experts, spec.groups);
  if (spec.groups_kept < 1 || spec.groups_kept > spec.groups)
    base::fail(ErrorKind::bad_input, where, "{} of {} groups of experts are kept: expected 1 to {}", spec.groups_kept,
               spec.groups, spec.groups);
  if (spec.groups_kept * spec.group_size() < spec.experts_per_token)
    base::fail(ErrorKind::bad_input, where, "{} experts per token cannot come from {} groups of {}",
               spec.experts_per_token, spec.groups_kept, spec.group_size());
  if (spec.groups > 1 && spec.group_score == RouterSpec::GroupScore::best_two && spec.group_size() < 2)
    base::fail(ErrorKind::bad_input, where,
               "groups that are scored by their two best experts need at least two experts");
}

void check_together(const RouterSpec& spec, std::string_view where) {
  if (spec.noise_bias && !spec.noise)
    base::fail(ErrorKind::bad_input, where, "a bias of the noise has no effect without noise");
  if (!spec.has_map() && (spec.bias || spec.hidden > 0 || spec.softcap > 0 || spec.jitter > 0))
    base::fail(ErrorKind::bad_input, where,
               "a hash layer whose experts' outputs are summed has no logits: no bias, no hidden layer, no softcap, no "
               "jitter");
  if (spec.slots < 1)
    base::fail(ErrorKind::bad_input, where, "{} slots for each expert: expected at least 1", spec.slots);
  if (spec.combine == RouterSpec::Combine::sum &&
      (spec.renormalise || spec.order != RouterSpec::Order{} || spec.score != RouterSpec::Score{}))
    base::fail(ErrorKind::bad_input, where,
               "outputs of experts that are summed have no weights: no score, no order, no renormalisation");
  if (!spec.capacity) return;
  if (!(spec.capacity->factor > 0) || !std::isfinite(spec.capacity->factor))
    base::fail(ErrorKind::bad_input, where,
               "a capacity factor of {}: expected a number above 0; without a capacity no token is dropped",
               spec.capacity->factor);
}

}  // namespace

void check(const RouterSpec& spec, std::string_view where) {
  if (spec.experts < 1)
    base::fail(ErrorKind::bad_input, where, "a router over {} experts: expected at least 1", spec.experts);
  if (spec.experts_per_token < 1 || spec.experts_per_token > spec.experts)
    base::fail(ErrorKind::bad_input, where, "{} experts per token of {}: expected 1 to {}", spec.experts_per_token,
               spec.experts, spec.experts);
  check_numbers(spec, where);
  check_groups(spec, where);
  check_together(spec, where);
  const RouterKind& kind = kind_of(spec.selection);
  if (kind.check) kind.check(spec, where);
}

}  // namespace coterie::layers
