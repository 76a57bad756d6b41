#include "runtime/expert_store/expert_store.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/table.h"
#include "runtime/engine.h"
#include "runtime/expert_store/thread_reader.h"
#include "runtime/generation.h"
#include "support/expect_error.h"
#include "support/temp_folder.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::runtime {
namespace {

using base::ErrorKind;

constexpr test::TinySizes kSizes = {256, 512, 16};

/// A file of random weights with 16 experts in two layers, of which a token takes two.
struct File {
  TempFolder folder;
  std::filesystem::path path = folder / "tiny.gguf";
  explicit File(tensor::DType dtype = tensor::DType::q8_0) { test::write_tiny_gguf(path, 256, dtype, kSizes); }
  Engine engine(EngineOptions options = {}) const { return Engine(families::open_model(path), options); }
};

EngineOptions streaming(int64_t expert_memory = 1, DiskReader reader = DiskReader::threads, int threads = 2) {
  EngineOptions options;
  options.threads = threads, options.expert_memory = expert_memory, options.disk_reader = reader;
  return options;
}

std::vector<uint32_t> bits(tensor::Matrix logits) {
  std::vector<uint32_t> result;
  for (int64_t r = 0; r < logits.rows; ++r)
    for (int64_t c = 0; c < logits.cols; ++c) result.push_back(std::bit_cast<uint32_t>(logits.row(r)[c]));
  return result;
}

std::vector<uint32_t> evaluate(Engine& engine, KvCache& cache, std::span<const int32_t> ids) {
  const models::SequenceStep step{.ids = ids, .state = &cache, .logits = models::SequenceStep::Logits::all};
  return bits(engine.evaluate({&step, 1}));
}

/// A prompt and tokens after it.
std::vector<std::vector<uint32_t>> steps_of(Engine& engine) {
  std::vector<int32_t> ids(40);
  std::iota(ids.begin(), ids.end(), 3);
  KvCache cache = engine.make_cache();
  std::vector<std::vector<uint32_t>> result{evaluate(engine, cache, ids)};
  for (const int32_t id : {7, 99, 200, 31, 8}) result.push_back(evaluate(engine, cache, {&id, 1}));
  result.push_back(evaluate(engine, cache, std::span(ids).first(5)));
  return result;
}

std::string text_of(Engine& engine, double temperature) {
  GenerationOptions options;
  options.max_tokens = 24, options.ignore_end = true;
  options.sampler.temperature = temperature, options.sampler.seed = 5;
  Generation generation(engine, std::vector<int32_t>{10, 20, 30}, std::move(options));
  Generation* one = &generation;
  while (!generation.finished()) step(engine, {&one, 1});
  return generation.text();
}

TEST(ExpertStore, EveryReaderAndBudgetGivesTheBitsOfTheModelInMemory) {
  for (const tensor::DType dtype : {tensor::DType::q8_0, tensor::DType::q4_k, tensor::DType::bf16}) {
    const File file(dtype);
    Engine resident = file.engine();
    resident.move_all_weights();
    const auto expected = steps_of(resident);
    int threads = 0;
    for (const DiskReader reader : {DiskReader::threads, DiskReader::uring, DiskReader::buffered})
      for (const int64_t memory : {int64_t{1}, int64_t{2} << 20, int64_t{1} << 30}) {
        EngineOptions options = streaming(memory, reader, 1 + threads++ % 4);
        options.look_ahead = threads % 3 == 0 ? LookAhead::off : LookAhead::on;
        Engine engine = file.engine(options);
        EXPECT_EQ(steps_of(engine), expected) << tensor::name(dtype) << " " << threads;
      }
  }
}

TEST(ExpertStore, LookingAheadReadsWhatTheNextLayerWantsAndCountsItApart) {
  const File file;
  for (const LookAhead how : {LookAhead::off, LookAhead::on}) {
    EngineOptions options = streaming(8 << 20);  // 19 of 32, an eighth of which is read ahead at a time
    options.look_ahead = how;
    Engine engine = file.engine(options);
    steps_of(engine);
    const StreamReport report = *engine.bytes().stream_report();
    EXPECT_EQ(report.look_ahead, how == LookAhead::on ? "on" : "off");
    int64_t ahead = 0, used = 0, bytes = 0;
    for (const StreamFigures::Kind* kind : {&report.figures.decode, &report.figures.prompt}) {
      ahead += kind->ahead, used += kind->ahead_used, bytes += kind->ahead_bytes;
      EXPECT_LE(kind->ahead_bytes, kind->bytes);
    }
    EXPECT_EQ(ahead > 0, how == LookAhead::on);
    EXPECT_EQ(used > 0, how == LookAhead::on) << "a prompt's next layer wants what its router guesses";
    EXPECT_LE(used, ahead);
    EXPECT_TRUE(how == LookAhead::on || bytes == 0);
  }
}

TEST(ExpertStore, TextsAreThoseOfTheModelInMemory) {
  const File file;
  Engine resident = file.engine(), engine = file.engine(streaming());
  for (const double temperature : {0.0, 0.9}) EXPECT_EQ(text_of(engine, temperature), text_of(resident, temperature));
}

TEST(ExpertStore, WithoutLookAheadARunIsRepeatableInTheBytesItReads) {
  const File file;
  int64_t bytes = -1;
  for (const int threads : {1, 3}) {
    EngineOptions options = streaming(1 << 20, threads == 1 ? DiskReader::threads : DiskReader::uring, threads);
    options.look_ahead = LookAhead::off;
    Engine engine = file.engine(options);
    steps_of(engine);
    const StreamFigures figures = engine.bytes().store()->figures();
    const int64_t read = figures.decode.bytes + figures.prompt.bytes;
    EXPECT_GT(read, 0);
    if (bytes >= 0) {
      EXPECT_EQ(read, bytes);
    }
    bytes = read;
  }
}

TEST(ExpertStore, SlotsForAllReadEachExpertOnce) {
  const File file;
  Engine engine = file.engine(streaming(int64_t{1} << 30));
  ExpertStore& store = *engine.bytes().store();
  EXPECT_EQ(store.all_slots(), store.layout().experts());
  EXPECT_EQ(store.layout().experts(), 32);
  steps_of(engine), steps_of(engine);
  const StreamFigures& figures = store.figures();
  EXPECT_LE(figures.decode.misses + figures.prompt.misses, 32);
  EXPECT_GT(figures.decode.hit_share(), 0.5);
  EXPECT_EQ(figures.prompt.tokens, 2 * 40);
  EXPECT_EQ(figures.decode.tokens, 2 * 10);
}

TEST(ExpertStore, APromptReadsEachMissingExpertOnce) {
  const File file;
  Engine engine = file.engine(streaming());
  std::vector<int32_t> ids(64);
  std::iota(ids.begin(), ids.end(), 1);
  KvCache cache = engine.make_cache();
  evaluate(engine, cache, ids);
  ExpertStore& store = *engine.bytes().store();
  const StreamFigures& figures = store.figures();
  EXPECT_LE(figures.prompt.misses, 32);
  // Whole units around three matrices, at most.
  const auto most = static_cast<int64_t>(1.02 * static_cast<double>(store.layout().expert_bytes())) +
                    32 * 3 * 2 * store.reader().unit();
  EXPECT_LE(figures.prompt.bytes, most);
}

/// Another reader, some of whose reads fail.
class Faulty final : public BlockReader {
 public:
  enum class Fault { none, error, ends_early };
  Faulty(std::unique_ptr<BlockReader> reader, const Fault& fault) : reader_(std::move(reader)), fault_(fault) {}
  std::string_view name() const override { return "faulty"; }
  bool direct() const override { return reader_->direct(); }
  int64_t unit() const override { return reader_->unit(); }
  bool changed(int32_t file) const override { return reader_->changed(file); }
  void submit(std::span<const ReadPiece> pieces) override { reader_->submit(pieces); }
  void submit_ahead(std::span<const ReadPiece> pieces) override { reader_->submit_ahead(pieces); }
  std::vector<uint64_t> withdraw() override { return reader_->withdraw(); }
  double busy_seconds() const override { return reader_->busy_seconds(); }
  std::optional<ReadDone> poll() override {
    const auto done = reader_->poll();
    return done ? std::optional(spoiled(*done)) : done;
  }
  ReadDone wait() override { return spoiled(reader_->wait()); }

 private:
  ReadDone spoiled(ReadDone done) {
    if (fault_ == Fault::error) done.error = EIO, done.bytes = 0;
    if (fault_ == Fault::ends_early) done.bytes /= 2;
    return done;
  }
  std::unique_ptr<BlockReader> reader_;
  const Fault& fault_;
};

TEST(ExpertStore, AReadThatFailsNamesTensorExpertAndOffsetAndTheNextStepIsRight) {
  const File file;
  Engine resident = file.engine();
  Faulty::Fault fault = Faulty::Fault::none;
  EngineOptions options = streaming();
  options.make_reader = [&](const FileTable& files) {
    return std::make_unique<Faulty>(make_thread_reader(StoredFiles(files.files, files.samples, {})), fault);
  };
  Engine engine = file.engine(options);
  const auto expected = steps_of(resident);
  for (const auto kind : {Faulty::Fault::error, Faulty::Fault::ends_early}) {
    KvCache cache = engine.make_cache();
    const int32_t id = 7;
    fault = kind;
    expect_error(ErrorKind::io,
                 {"tiny.gguf", "_exps.weight, expert ", "offset ",
                  kind == Faulty::Fault::error ? "Input/output error" : "the file has been cut off"},
                 [&] {
                   evaluate(engine, cache, {&id, 1});
                 });
    EXPECT_EQ(engine.bytes().store()->policy().leased(), 0);
    fault = Faulty::Fault::none;
    EXPECT_EQ(steps_of(engine), expected) << "what could not be read is read again";
  }
}

TEST(ExpertStore, ADenseWeightThatCannotBeReadIsNamedAtTheStart) {
  const File file;
  const Faulty::Fault fault = Faulty::Fault::error;
  EngineOptions options = streaming();
  options.make_reader = [&](const FileTable& files) {
    return std::make_unique<Faulty>(make_thread_reader(StoredFiles(files.files, files.samples, {})), fault);
  };
  expect_error(ErrorKind::io, {"tiny.gguf: ", ".weight", "offset ", "Input/output error"},
               [&] { file.engine(options); });
}

TEST(ExpertStore, AFileThatIsCutOffOrWrittenToMeanwhileIsAnError) {
  for (const bool cut : {true, false}) {
    const File file;
    Engine engine = file.engine(streaming());
    steps_of(engine);
    if (cut) {
      std::filesystem::resize_file(file.path, std::filesystem::file_size(file.path) / 4);
    } else {
      std::fstream stream(file.path, std::ios::in | std::ios::out | std::ios::binary);
      stream.seekp(-1, std::ios::end);
      stream.put('x');
    }
    KvCache cache = engine.make_cache();
    std::vector<int32_t> ids(40);
    std::iota(ids.begin(), ids.end(), 100);
    expect_error(ErrorKind::io, {"tiny.gguf"}, [&] { evaluate(engine, cache, ids); });
  }
}

TEST(ExpertStore, AFileSystemWithoutDirectReadsIsReadThroughThePageCacheAndSaysSo) {
  if (!std::filesystem::is_directory("/dev/shm")) GTEST_SKIP() << "no /dev/shm";
  const File file;
  const std::filesystem::path copy =
      std::filesystem::path("/dev/shm") / ("coterie-test-" + std::to_string(::getpid()) + ".gguf");
  std::filesystem::copy_file(file.path, copy);
  Engine resident = file.engine();
  const auto expected = steps_of(resident);
  {
    Engine engine(families::open_model(copy), streaming());
    EXPECT_EQ(steps_of(engine), expected);
    const bool direct = engine.bytes().store()->reader().direct();
    EXPECT_EQ(engine.bytes().note().find("buffered") == std::string::npos, direct) << engine.bytes().note();
  }
  std::filesystem::remove(copy);
  Engine engine = file.engine(streaming(1, DiskReader::buffered));
  EXPECT_FALSE(engine.bytes().store()->reader().direct());
  EXPECT_NE(engine.bytes().note().find("buffered"), std::string::npos) << engine.bytes().note();
}

TEST(ExpertStore, ABudgetBelowTheFloorIsRefusedWithTheFigures) {
  const File file;
  EngineOptions options;
  options.memory = 1 << 20;
  expect_error(ErrorKind::out_of_memory, {"at least", "KV cache", "the memory given, 1.0 MB", "context"},
               [&] { file.engine(options); });
}

TEST(ExpertStore, WhatFitsTheBudgetIsNotReadFromTheDisk) {
  const File file;
  EngineOptions options;
  EXPECT_EQ(file.engine(options).bytes().store(), nullptr);
  options.memory = int64_t{8} << 30;
  EXPECT_EQ(file.engine(options).bytes().store(), nullptr);
}

TEST(ExpertStore, WeightsInMemoryCannotBeReadFromAFile) {
  expect_error(ErrorKind::unsupported, {"lies in no file"}, [&] { Engine(test::tiny_model(), streaming()); });
}

TEST(ModelBytes, SayWhereEachWeightIs) {
  const File file;
  Engine engine = file.engine(streaming());
  const ModelBytes& bytes = engine.bytes();
  const int64_t all = bytes.weights().all_held();
  const auto sum = [](const ModelBytes::Bytes& of) { return std::accumulate(of.begin(), of.end(), int64_t{0}); };
  const auto at = [](const ModelBytes::Bytes& of, Where where) { return of[static_cast<size_t>(where)]; };
  EXPECT_EQ(sum(bytes.all()), all);
  EXPECT_EQ(at(bytes.all(), Where::slot), 0);
  EXPECT_EQ(at(bytes.all(), Where::disk), bytes.weights().held[static_cast<size_t>(models::Place::experts)]);
  EXPECT_EQ(at(bytes.all(), Where::mapped), 0) << "all else has been read";
  steps_of(engine);
  int64_t in_slots = 0;
  for (const ModelBytes::Layer& layer : bytes.layers()) {
    if (layer.layer < 0) continue;
    ASSERT_EQ(layer.experts.size(), 16u);
    in_slots += std::count(layer.experts.begin(), layer.experts.end(), Where::slot);
  }
  EXPECT_EQ(in_slots, bytes.store()->all_slots());
  EXPECT_EQ(sum(bytes.all()), all);

  Engine resident = file.engine();
  EXPECT_EQ(sum(resident.bytes().all()), all);
  EXPECT_GT(at(resident.bytes().all(), Where::mapped), 0);
  resident.move_all_weights();
  EXPECT_EQ(at(resident.bytes().all(), Where::repacked) > 0, kernels::select().matmul.repack != nullptr);
  EXPECT_EQ(sum(resident.bytes().all()), all);
}

}  // namespace
}  // namespace coterie::runtime
