#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "base/json.h"
#include "families/family.h"
#include "models/account.h"
#include "models/network.h"
#include "support/places.h"

// Published hybrids. Every total is the one transformers 5.23 counts for the same config (from_config on the meta
// device, tied weights once), and rounds to what the model card says: Jamba 52B, Zamba2 2.7B, Granite 4.0 h-tiny 7B and
// h-small 32B. The configs hold the published values as far as they are public outside the model pages (Jamba's agree
// with transformers' defaults and with its successor's file, Granite h-small's sizes with a quotation of the file,
// Zamba2's with its authors' description: two blocks in turn, adapters for the FFN alone); no index of tensors was at
// hand to compare with.
namespace coterie::families {
namespace {

ModelSpec published(const std::string& name) {
  const std::filesystem::path path =
      std::filesystem::path(tests::source_folder()) / "unit" / "families" / "configs" / (name + ".json");
  return read_config(base::read_json(path), path.string(), true);
}

// Of one Mamba-2 mixer: projections in and out, convolution with biases, A, D, dt bias, norm.
int64_t mamba2(int64_t width, int64_t heads, int64_t head_dim, int64_t states) {
  const int64_t inner = heads * head_dim, conv = inner + 2 * states;
  return (inner + conv + heads) * width + 5 * conv + 3 * heads + inner + inner * width;
}

TEST(AccountHybrid, Jamba) {
  const models::Account a = account(published("jamba-v0.1"));
  EXPECT_EQ(a.total(), 51'570'323'328);
  EXPECT_EQ(a.total_active(), 12'110'311'296);
  // 28 Mamba layers: the last 3 inputs of a convolution and 16 states for each of 8192 channels, f32.
  EXPECT_EQ(a.state_bytes, 28 * (3 + 16) * 8192 * 4);
  EXPECT_EQ(a.cache_bytes_per_token, 4 * 8 * (128 + 128) * 2);
}

TEST(AccountHybrid, Zamba2CountsSharedBlocksOnce) {
  const int64_t d = 2560, uses = 9, rank = 128, f = 10240;
  const int64_t shared = 2 * d + 3 * (2 * d) * (2 * d) + (2 * d) * d + d + 3 * d * f;
  const int64_t adapters = uses * rank * (d + 2 * f), projections = uses * d * d;
  const int64_t all = 54 * (mamba2(d, 80, 64, 64) + d) + 2 * shared + adapters + projections + 32000 * d + d;
  const models::Account a = account(published("zamba2-2.7b"));
  EXPECT_EQ(all, 2'662'214'560);
  EXPECT_EQ(a.total(), all);
  EXPECT_EQ(a.total_active(), all);
  EXPECT_EQ(a.state_bytes, 54 * 4 * (3 * (5120 + 128) + 5120 * 64));
  // Shared weights, but each use has keys and values of its own.
  EXPECT_EQ(a.cache_bytes_per_token, uses * 32 * (160 + 160) * 2);
  int64_t layers = 32000 * d + d;
  for (const models::Account::Layer& layer : a.layers)
    for (const int64_t n : layer.held) layers += n;
  EXPECT_EQ(layers, all);
}

TEST(AccountHybrid, Granite4) {
  const models::Account tiny = account(published("granite-4.0-h-tiny"));
  EXPECT_EQ(tiny.total(), 6'939'037'248);
  EXPECT_EQ(tiny.total_active(), 1'465'470'528);
  EXPECT_EQ(tiny.state_bytes, 36 * 4 * (3 * (3072 + 256) + 3072 * 128));
  EXPECT_EQ(tiny.cache_bytes_per_token, 4 * 4 * (128 + 128) * 2);
  const models::Account small = account(published("granite-4.0-h-small"));
  EXPECT_EQ(small.total(), 32'207'337'984);
  EXPECT_EQ(small.total_active(), 8'803'121'664);
}

TEST(AccountHybrid, SharedBlocksTakeTurns) {
  const ModelSpec spec = published("zamba2-2.7b");
  ASSERT_EQ(spec.shared.size(), 2u);
  EXPECT_EQ(spec.shared[0].adapters, (std::vector<int64_t>{0, 2, 4, 6, 8}));
  EXPECT_EQ(spec.shared[1].adapters, (std::vector<int64_t>{1, 3, 5, 7}));
  struct Paths : layers::TensorReader {
    std::map<std::string, int> seen;
    void matrix(const Tensor& t, int64_t, int64_t, const tensor::Weight&) override { ++seen[t.path]; }
    void vector(const Tensor& t, int64_t, const layers::Vector&) override { ++seen[t.path]; }
    void stack(const Tensor& t, int64_t, int64_t, int64_t, const std::vector<tensor::Weight>&) override {
      ++seen[t.path];
    }
  } paths;
  models::Network(spec).read(paths);
  for (const auto& [path, times] : paths.seen) EXPECT_EQ(times, 1) << path;
  EXPECT_TRUE(paths.seen.contains("blocks.6.shared.attention.q"));
  EXPECT_TRUE(paths.seen.contains("blocks.12.shared.adapters.7.gate_up.down"));
  EXPECT_FALSE(paths.seen.contains("blocks.18.shared.attention.q"));
  EXPECT_TRUE(paths.seen.contains("blocks.18.shared_projection"));
}

}  // namespace
}  // namespace coterie::families
