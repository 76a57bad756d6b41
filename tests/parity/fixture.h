#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "models/spec.h"

namespace coterie::parity {

/// expected.safetensors of a folder below tests/parity/data: what the reference computed; its logits from
/// exact.safetensors, where there is one: the same code kept in f64 throughout, where it goes to f32 on its own in
/// norms and delta rules, which linear attention amplifies (tests/parity/make/parts.py).
struct Expected {
  int64_t batch = 0, tokens = 0, vocabulary = 0, greedy_tokens = 0;
  std::vector<int32_t> ids;     // [B, T]
  std::vector<float> logits;    // [B, T, V]
  double loss = 0;              // NaN when the fixture has none
  std::vector<int32_t> greedy;  // [B, greedy_tokens]
  double logit_std = 0;
};

struct Fixture {
  std::string name;                     // "mixtral/base": the family and the case
  std::filesystem::path folder, model;  // what to open
};

/// How many times the usual bounds what a model computes in f32 may be off: 4 for those with a delta rule, which
/// amplifies what is rounded (measured against f64: 2.3 times for logits, 3.2 over 320 tokens, 2.6 for gradients;
/// transformers' own f32 parts are up to 6 times off), 1 for others.
double slack_of(const models::ModelSpec& spec);

/// Every folder with an expected.safetensors.
std::vector<Fixture> fixtures();
Expected read_expected(const Fixture& fixture);

}  // namespace coterie::parity
