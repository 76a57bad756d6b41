#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/table.h"
#include "layers/resident_state.h"
#include "tiny_model.h"

// What the laws share: every family, on every instruction set, in both precisions.
namespace coterie::laws {

struct Case {
  std::string family, isa;
  ops::Precision precision = ops::Precision::f32;
  tensor::DType cache = tensor::DType::f32;
};
/// All families × instruction sets × precisions (fast with an f16 cache, on AVX2 with
/// one of q8_0 as well, f32 with an f32 one).
std::vector<Case> all_cases();
/// Of these, enough for all pairs of a family, an instruction set and a precision: what runs by default. Instantiate a
/// suite with them, and once more, as Slow, with the others.
std::vector<Case> cases();
std::vector<Case> other_cases();
/// Those of families with routed experts, or a Soft MoE, in some FFN.
std::vector<Case> with_experts(std::vector<Case> all);
std::string name_of(const testing::TestParamInfo<Case>& info);

/// A model of the case's family; in `fast` its matrices are q8_0, so that int8 activations take part.
tiny::Model model_of(const Case& c, uint64_t seed = 1);
tiny::Model quantised(const models::ModelSpec& spec, std::vector<checkpoint::MemoryTensor> tensors,
                      tensor::DType dtype);

/// One thread of control on the case's kernels.
struct Runner {
  Runner(const Case& c, const models::Decoder& decoder_, int threads = 2)
      : decoder(decoder_), kernels(kernels::by_name(c.isa)), precision(c.precision), cache(c.cache), pool(threads) {}

  layers::ResidentState state() const {
    return {models::cache_block_bytes(decoder.spec(), cache), cache, models::state_floats(decoder.spec())};
  }
  /// Evaluates each piece of `ids` after the other; the logits of every position, [T * V].
  std::vector<float> pieces(std::span<const int32_t> ids, std::span<const int64_t> sizes);
  /// All at once.
  std::vector<float> whole(std::span<const int32_t> ids);
  /// Several sequences, each from where its state stands, in one batch; logits of all rows in order.
  std::vector<float> step(std::span<const std::span<const int32_t>> ids,
                          std::span<layers::ResidentState* const> states);

  const models::Decoder& decoder;
  const kernels::KernelTable& kernels;
  ops::Precision precision;
  tensor::DType cache;
  threads::Pool pool;
  tensor::Arena arena;
  layers::Observer* observer = nullptr;
  layers::ExpertSource* experts = nullptr;
  const layers::RouterHook* hook = nullptr;  // of the first sequence of a step
};

std::vector<int32_t> some_ids(int64_t count, int64_t vocabulary, uint64_t seed);

/// To the bit, with the first difference on failure.
void expect_same_bits(std::span<const float> a, std::span<const float> b, const std::string& what);
/// Relative to the spread of `b`.
void expect_close(std::span<const float> a, std::span<const float> b, double tolerance, const std::string& what);

class Law : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    for (const kernels::Candidate& candidate : kernels::candidates())
      if (candidate.table->isa == GetParam().isa && !candidate.usable) GTEST_SKIP() << candidate.reason;
  }
};

}  // namespace coterie::laws
