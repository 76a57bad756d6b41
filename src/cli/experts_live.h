#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "layers/observer.h"
#include "models/spec.h"

namespace coterie::cli {

/// A line for each token that is read while an answer is made: the token, and the expert that was first in each layer
/// with a router, as a number and, where a terminal shows colours, as a colour. As many layers as the width has room
/// for, evenly chosen.
class LiveExperts final : public layers::Observer {
 public:
  /// `text_of`: what a token says. `columns`: of the terminal.
  LiveExperts(const models::ModelSpec& spec, int64_t columns, std::function<std::string(int32_t id)> text_of);

  void routed(const layers::Routed& router) override;
  void mixed(const layers::Mixture& mixture) override;

  /// The numbers of the layers that are shown.
  std::string header() const;
  /// The token that has been chosen; the line of the one before it, which has been read by then.
  std::string next(int32_t id);
  /// The last token's line: nothing has read it, so it has no experts.
  std::string last();

 private:
  std::string line(std::string_view text, bool read) const;

  std::function<std::string(int32_t)> text_of_;
  std::vector<int64_t> layers_;  // that are shown
  std::vector<int64_t> top_;     // of the last row of each block; -1 none
  std::vector<int32_t> token_;   // that is to be read next
  int64_t digits_ = 1;
};

}  // namespace coterie::cli
