#include <gtest/gtest.h>

#include <bit>
#include <set>
#include <string>
#include <vector>

#include "parity/fixture.h"
#include "runtime/engine.h"

// Every fixture with routed experts, of every family and in both formats, with its experts read from its files as they
// are needed: the bits of the model in memory. Readers and numbers of threads take turns.
namespace coterie::runtime {
namespace {

std::vector<uint32_t> bits(tensor::Matrix logits) {
  std::vector<uint32_t> result;
  for (int64_t r = 0; r < logits.rows; ++r)
    for (int64_t c = 0; c < logits.cols; ++c) result.push_back(std::bit_cast<uint32_t>(logits.row(r)[c]));
  return result;
}

/// All but the last three tokens at once, then those one by one.
std::vector<std::vector<uint32_t>> steps_of(Engine& engine, std::span<const int32_t> ids) {
  KvCache cache = engine.make_cache();
  std::vector<std::vector<uint32_t>> result;
  const size_t cut = ids.size() - 3;
  for (size_t at = 0; at < ids.size(); at += at == 0 ? cut : 1) {
    const models::SequenceStep step{.ids = ids.subspan(at, at == 0 ? cut : 1),
                                    .state = &cache,
                                    .logits = models::SequenceStep::Logits::all,
                                    .length = std::ssize(ids)};
    result.push_back(bits(engine.evaluate({&step, 1})));
  }
  return result;
}

enum class Experts { none, chosen, mixed };
Experts experts_of(const models::ModelSpec& spec) {
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn))
      return moe->router.selection == layers::RouterSpec::Selection::soft ? Experts::mixed : Experts::chosen;
  return Experts::none;
}

class StreamedFixture : public testing::TestWithParam<size_t> {};

TEST_P(StreamedFixture, HasTheBitsOfTheModelInMemory) {
  const size_t number = GetParam();
  const parity::Fixture fixture = parity::fixtures()[number];
  const models::ModelSpec spec = families::read_spec(checkpoint::resolve_model(fixture.model));
  if (experts_of(spec) != Experts::chosen) return;
  const std::vector<int32_t> all = parity::read_expected(fixture).ids;
  const int64_t length = parity::read_expected(fixture).tokens;
  const std::span<const int32_t> ids{all.data(), static_cast<size_t>(length)};
  EngineOptions options;
  options.threads = static_cast<int>(1 + number % 4);
  if (length > spec.context) options.context = length;  // dynamic scaling grows with it
  options.precision = number % 2 ? ops::Precision::fast : ops::Precision::f32;
  Engine resident(families::open_model(fixture.model), options);
  options.expert_memory = 1;  // as few slots as a model runs with
  constexpr DiskReader kReaders[] = {DiskReader::threads, DiskReader::uring, DiskReader::buffered};
  options.disk_reader = kReaders[number / 2 % 3];
  std::unique_ptr<Engine> streamed;
  try {
    streamed = std::make_unique<Engine>(families::open_model(fixture.model), options);
  } catch (const base::Error& error) {
    // Some files hold experts in another order than the one they are read in.
    ASSERT_EQ(static_cast<int>(error.kind()), static_cast<int>(base::ErrorKind::unsupported)) << error.what();
    ASSERT_NE(std::string(error.what()).find("coterie convert"), std::string::npos) << error.what();
    ASSERT_NE(fixture.model.extension(), ".gguf") << "a GGUF has them as they are read: " << error.what();
    RecordProperty("put_together_in_memory", fixture.name);
    return;
  }
  EXPECT_EQ(steps_of(*streamed, ids), steps_of(resident, ids)) << fixture.name;
  ASSERT_NE(streamed->bytes().store(), nullptr);
  EXPECT_GT(streamed->bytes().store()->figures().prompt.bytes + streamed->bytes().store()->figures().decode.bytes, 0);
}

std::string name_of(const testing::TestParamInfo<size_t>& info) {
  std::string name = parity::fixtures()[info.param].name;
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
}

INSTANTIATE_TEST_SUITE_P(Fixtures, StreamedFixture, testing::Range(size_t{0}, parity::fixtures().size()), name_of);

}  // namespace
}  // namespace coterie::runtime
