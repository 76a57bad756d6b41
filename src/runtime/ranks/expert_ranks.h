#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "comm/inbox.h"
#include "comm/ranks.h"
#include "layers/moe/expert_source.h"
#include "ops/moe/formed_rows.h"
#include "runtime/ranks/expert_placement.h"

// Experts over ranks: each rank owns a part of every layer's routed experts. The rank that has a token (its home) sends
// its row to the owners of its experts, one row to each however many of its experts are asked, quantised where the
// experts' kernels would quantise it; these send back what each slot's expert gave, unweighted, a few experts at a
// time; the home adds up the slots in the order in which its router chose them. So no sum depends on who computed what,
// or on what arrives first: n ranks give the bits of one (docs/design/ranks.md).
namespace coterie::runtime {

/// The experts of a layer that this rank owns: x [N, width], out [slots, width] (Decoder::expert_outputs).
using ComputeExperts = std::function<void(int64_t layer, const ops::FormedRows& x, const ops::RoutingPlan& plan,
                                          std::span<const int32_t> ids, tensor::Matrix out)>;

/// The routed experts of a model over ranks, as the layers of one rank see them: its own are handed out, the others'
/// outputs come from their owners. Used by the thread that runs the pass.
class ExpertRanks final : public layers::ExpertSource {
 public:
  /// `divided`: the other ranks evaluate rows of the same step, and ask this one for its experts in every layer as it
  /// asks them, with no rows, too; they are answered by `compute`. Otherwise all rows are here, and the others serve.
  /// `placement` and `context` must outlive it.
  ExpertRanks(comm::Ranks& ranks, comm::Inbox& inbox, const ExpertPlacement& placement, bool divided,
              ops::Context& context, ComputeExperts compute);

  std::unique_ptr<layers::ExpertLease> lease(const layers::ExpertCall& call) override;

 private:
  class Lease;

  comm::Ranks& ranks_;
  comm::Inbox& inbox_;
  const ExpertPlacement& placement_;
  bool divided_;
  ops::Context& context_;
  ComputeExperts compute_;
};

/// Computes what a message of kind `rows` asks for and sends it back, if it asks for anything. `experts`: of its layer.
/// Throws what `compute` throws.
void answer(comm::Ranks& ranks, comm::Message& rows, const ComputeExperts& compute, int64_t experts);

/// Bytes of the payload that asks for experts: of `rows` tokens in this form and `slots` slots of `experts` of them,
/// and of what comes back (tests and plans; the header of a message is apart).
int64_t rows_payload(int64_t rows, int64_t width, int64_t slots, int64_t experts, kernels::ActivationForm form);
int64_t outputs_payload(int64_t slots, int64_t width);

}  // namespace coterie::runtime
