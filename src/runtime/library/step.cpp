#include <algorithm>
#include <set>

#include "base/error.h"
#include "runtime/library/impl.h"

namespace coterie {

namespace library {

void RoutingObserver::routed(const layers::Routed& router) {
  const ops::RoutingPlan& plan = router.plan;
  const int64_t experts = router.logits.cols;
  for (const layers::SequenceRows& rows : router.sequences) {
    const auto found = sessions_.find(rows.step.state);
    if (found == sessions_.end() || found->second->routing_error) continue;
    Session::Impl& session = *found->second;
    int64_t most = 0;  // K
    for (int64_t t = rows.first_row; t < rows.first_row + rows.rows; ++t)
      most = std::max<int64_t>(
          most, plan.token_offset[static_cast<size_t>(t) + 1] - plan.token_offset[static_cast<size_t>(t)]);
    most = std::max(most, plan.tokens > 0 ? std::ssize(router.chosen) / plan.tokens : 0);
    std::vector<int32_t> chosen(static_cast<size_t>(rows.rows * most), -1);
    std::vector<float> weights(chosen.size()), logits;
    for (int64_t r = 0; r < rows.rows; ++r) {
      const auto t = static_cast<size_t>(rows.first_row + r);
      auto at = static_cast<size_t>(r * most);
      for (auto c = static_cast<size_t>(plan.token_offset[t]); c < static_cast<size_t>(plan.token_offset[t + 1]); ++c) {
        const int32_t slot = plan.token_slot[c];
        chosen[at] = static_cast<int32_t>(std::upper_bound(plan.expert_offset.begin(), plan.expert_offset.end(), slot) -
                                          plan.expert_offset.begin() - 1);
        weights[at++] = plan.slot_weight[static_cast<size_t>(slot)];
      }
      const float* const row = router.logits.row(rows.first_row + r);
      logits.insert(logits.end(), row, row + experts);
    }
    try {
      call_back(session.on_routing, Routing{.layer = router.layer,
                                            .first_position = rows.first_position,
                                            .tokens = rows.rows,
                                            .experts = experts,
                                            .experts_per_token = most,
                                            .chosen = chosen,
                                            .weights = weights,
                                            .logits = logits});
    } catch (...) {
      // The step goes on: it is the others' too.
      session.routing_error = std::current_exception();
    }
  }
}

void step(Model::Impl& model, std::span<Session::Impl* const> sessions) {
  const Model::Impl::Turn turn(model);
  std::set<runtime::Engine*> engines;
  for (Session::Impl* session : sessions)
    if (session->writes()) engines.insert(session->engine);
  // In the order in which they were given, whatever the addresses are.
  for (const auto& each : model.engines.all()) {
    if (!engines.contains(each.get())) continue;
    std::vector<runtime::Generation*> generations;
    RoutingObserver routing;
    for (Session::Impl* session : sessions) {
      if (!session->writes() || session->engine != each.get()) continue;
      generations.push_back(&*session->generation);
      session->routing_error = nullptr;
      if (session->on_routing) routing.watch(&session->generation->tokens().cache, *session);
    }
    runtime::step(*each, generations, routing.watches() ? &routing : nullptr);
    for (Session::Impl* session : sessions)
      if (session->engine == each.get() && session->routing_error) session->generation->fail(session->routing_error);
  }
}

}  // namespace library

void step(std::span<Session* const> sessions) {
  library::translated([&] {
    std::vector<Session::Impl*> all;
    for (Session* session : sessions) {
      if (!session) base::fail(base::ErrorKind::bad_input, "sessions", "one of {} is null", sessions.size());
      all.push_back(session->impl_.get());
      if (all.back()->model.impl_ != all.front()->model.impl_)
        base::fail(base::ErrorKind::bad_input, "sessions", "of {} and {} cannot take a step together",
                   all.front()->model.name(), all.back()->model.name());
    }
    if (std::set<Session::Impl*>(all.begin(), all.end()).size() < all.size())
      base::fail(base::ErrorKind::bad_input, "sessions", "one of {} is given twice", sessions.size());
    if (!all.empty()) library::step(all.front()->of(), all);
  });
}

void step(std::initializer_list<Session*> sessions) { step(std::span(sessions.begin(), sessions.size())); }

}  // namespace coterie
