#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "kernels/table.h"
#include "runtime/engine.h"
#include "support/temp_folder.h"
#include "support/with_isa.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::runtime {
namespace {

bool usable(std::string_view isa) {
  for (const kernels::Candidate& candidate : kernels::candidates())
    if (candidate.table->isa == isa) return candidate.usable;
  return false;
}

/// Logits of a prompt in two pieces, long enough that experts get more tokens than vector kernels multiply, and of a
/// token after it.
std::vector<float> logits(const char* isa, tensor::DType dtype) {
  const WithIsa forced(isa);
  const TempFolder folder;
  test::write_tiny_gguf(folder / "tiny.gguf", 256, dtype);
  EngineOptions options;
  options.threads = 2;
  Engine engine(families::open_model(folder / "tiny.gguf"), options);
  EXPECT_EQ(engine.isa(), isa);
  std::vector<int32_t> ids(101);
  std::iota(ids.begin(), ids.end(), 3);
  KvCache cache = engine.make_cache();
  std::vector<float> result;
  const std::span<const int32_t> all(ids);
  for (const std::span<const int32_t> piece : {all.first(70), all.subspan(70, 30), all.subspan(100)}) {
    const models::SequenceStep step{.ids = piece, .state = &cache, .logits = models::SequenceStep::Logits::all};
    const tensor::Matrix rows = engine.evaluate({&step, 1});
    for (int64_t r = 0; r < rows.rows; ++r) result.insert(result.end(), rows.row(r), rows.row(r) + rows.cols);
  }
  return result;
}

// Sums of integers have no order, and the steps in f32 have AVX-512's.
TEST(InstructionSets, TilesChangeNoBitOfAModel) {
  if (!usable("amx")) GTEST_SKIP() << "this CPU has no tiles";
  using tensor::DType;
  for (const DType dtype : {DType::q2_k, DType::q3_k, DType::q4_k, DType::q5_k, DType::q6_k, DType::iq4_xs})
    EXPECT_EQ(logits("amx", dtype), logits("avx512", dtype)) << tensor::name(dtype);
}

}  // namespace
}  // namespace coterie::runtime
