#pragma once

#include <cstdint>
#include <span>
#include <utility>

#include "comm/message.h"
#include "layers/observer.h"

namespace coterie::runtime {

/// Writes down what the routers of a rank's layers decide, for an observer on rank 0: plans, logits, choices, and the
/// logits of mixtures; not the noise that was drawn, nor what routers read.
class RoutesWriter final : public layers::Observer {
 public:
  explicit RoutesWriter(uint64_t step) : message_(comm::Kind::routes, step, -1) {}

  void routed(const layers::Routed& router) override { write(router, false); }
  void mixer_routed(const layers::Routed& router) override { write(router, true); }
  void mixed(const layers::Mixture& mixture) override;
  /// What has been written, as a message.
  comm::Writer take() { return std::move(message_); }

 private:
  void write(const layers::Routed& router, bool of_mixer);
  void write(tensor::ConstMatrix matrix);

  comm::Writer message_;
};

/// Shows an observer what a message of RoutesWriter says. `steps`: those of the pass, all with rows.
void replay_routes(comm::Message& message, std::span<const layers::SequenceStep> steps, layers::Observer& observer);

}  // namespace coterie::runtime
