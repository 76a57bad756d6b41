#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "layers/observer.h"
#include "runtime/engine.h"
#include "runtime/ensemble_parts.h"

namespace coterie::cli {

/// A line for each token that is read while an answer is made: the token; of an ensemble, the model that weighed most
/// when it was chosen, and its weight; and the expert that was first in each layer with a router, as a number and,
/// where a terminal shows colours, as a colour. As many layers as the width has room for, evenly chosen.
class LiveExperts final : public layers::Observer {
 public:
  /// `text_of`: what a token says. `columns`: of the terminal. Hears the gate of an ensemble while it lives.
  LiveExperts(runtime::Engine& engine, int64_t columns, std::function<std::string(int32_t id)> text_of);

  void routed(const layers::Routed& router) override;
  void mixed(const layers::Mixture& mixture) override;

  /// The numbers of the layers that are shown, those of an ensemble's models as each model has them.
  std::string header() const;
  /// The token that has been chosen; the line of the one before it, which has been read by then.
  std::string next(int32_t id);
  /// The last token's line: nothing has read it, so it has no experts.
  std::string last();

 private:
  std::string line(std::string_view text, bool read, std::span<const float> weights) const;
  std::string who(std::span<const float> weights) const;

  runtime::EnsembleParts gated_;
  size_t name_width_ = 0;                        // columns of a model's name
  std::shared_ptr<std::vector<float>> weights_;  // [N] that the gate gave an ensemble's models last
  std::shared_ptr<const void> listens_;
  std::vector<float> token_weights_;  // of token_
  std::function<std::string(int32_t)> text_of_;
  std::vector<int64_t> layers_;  // that are shown
  std::vector<int64_t> top_;     // of the last row of each block; -1 none
  std::vector<int32_t> token_;   // that is to be read next
  int64_t digits_ = 1;
};

}  // namespace coterie::cli
