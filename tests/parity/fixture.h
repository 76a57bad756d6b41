#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace coterie::parity {

/// expected.safetensors of a folder below tests/parity/data: what the reference computed.
struct Expected {
  int64_t batch = 0, tokens = 0, vocabulary = 0, greedy_tokens = 0;
  std::vector<int32_t> ids;     // [B, T]
  std::vector<float> logits;    // [B, T, V]
  double loss = 0;              // NaN when the fixture has none
  std::vector<int32_t> greedy;  // [B, greedy_tokens]
  double logit_std = 0;
  // How far the logits are from those of exact.safetensors, an evaluation in f64 throughout, where there is one: the
  // reference has norms and the delta rule in f32 whatever the rest is in, and linear attention amplifies what that
  // rounds. 0 where there is none.
  double reference_error = 0;
};

struct Fixture {
  std::string name;                     // "mixtral/base": the family and the case
  std::filesystem::path folder, model;  // what to open
};

/// Every folder with an expected.safetensors.
std::vector<Fixture> fixtures();
Expected read_expected(const Fixture& fixture);

}  // namespace coterie::parity
