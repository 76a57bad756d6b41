#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <fstream>

#include "base/atomic_file.h"
#include "base/error.h"
#include "checkpoint/tensor_source.h"
#include "families/adapter/adapter.h"
#include "families/open.h"
#include "kernels/table.h"
#include "support/expect_error.h"
#include "support/temp_folder.h"
#include "train/instruction_data.h"
#include "train/log_file.h"
#include "train/pass.h"
#include "train/run_folder.h"
#include "train/trainer.h"
#include "train/tuned_model.h"

// Tuning of a tiny Mixtral that a run of the same trainer made.
namespace coterie::train {
namespace {

namespace fs = std::filesystem;
using base::ErrorKind;
using base::Json;

constexpr const char* kBase = R"(
model:
  config: {model_type: mixtral, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2, num_attention_heads: 2,
           num_key_value_heads: 1, num_local_experts: 4, num_experts_per_tok: 2, max_position_embeddings: 64,
           rms_norm_eps: 1e-5, rope_theta: 10000.0}
tokenizer: {kind: bytes, special: "<|end|>"}
data: {files: text.txt, validation: 0.2}
training: {sequence: 16, batch: 2, steps: 2, learning_rate: 1e-2}
)";

constexpr const char* kLora = R"(
tune: {lora: {targets: [attention, experts, router], rank: 3, alpha: 6}}
data: {files: text.txt, validation: 0.2}
training: {sequence: 8, batch: 4, micro_batch: 2, steps: 12, learning_rate: 1e-2, clip: 1, dropout: 0.1,
           expert_dropout: 0.2, weight_decay: 0.01}
balance: {loss: 0.01}
evaluation: {every: 6}
checkpoint: {every: 5}
)";

// A template as most are: the end token closes a turn and a line break follows.
constexpr const char* kTemplate =
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}a:{% "
    "endif %}";

std::string changed(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

std::string bytes_of(const fs::path& path) { return base::read_text(path); }

class Tuning : public testing::Test {
 protected:
  Tuning() {
    std::string text;
    for (int i = 0; i < 600; ++i) text += static_cast<char>('a' + (i * i + i / 7) % 23);
    folder.write("text.txt", text);
    folder.write("base.yaml", kBase);
    run(read_recipe(folder / "base.yaml"), "made");
    model = folder / "made" / "checkpoints" / "step-0000002";
    folder.write("made/checkpoints/step-0000002/chat_template.jinja", kTemplate);
    before = bytes_of(model / "model.safetensors");
  }

  bool run(Recipe recipe, const std::string& out, bool resume = false, int64_t stop_after = 0, int threads = 2) {
    threads::Pool pool(threads);
    std::atomic<bool> stop = false;
    TrainerListener listener;
    listener.event = [&](const Json& event) {
      if (event["kind"] == "step" && event["step"] == stop_after) stop = true;
    };
    Trainer trainer(std::move(recipe), {folder / out, resume, 0}, pool, kernels::select(), listener);
    const bool finished = trainer.run(stop);
    stopped_early = trainer.stopped_early();
    result = trainer.result();
    return finished;
  }
  bool tune(const std::string& recipe, const std::string& out, bool resume = false, int64_t stop_after = 0,
            int threads = 2) {
    folder.write("tune.yaml", recipe);
    return run(read_recipe(folder / "tune.yaml", {"", {}, model}), out, resume, stop_after, threads);
  }
  std::vector<Json> events(const std::string& out, const std::string& kind) const {
    std::vector<Json> list;
    std::ifstream log(folder / out / "log.jsonl");
    for (std::string line; std::getline(log, line);)
      if (Json event = Json::parse(line); event["kind"] == kind) list.push_back(event);
    return list;
  }
  std::string file(const std::string& out, const std::string& name, int step = 12) const {
    return bytes_of(folder / out / "checkpoints" / fmt::format("step-{:07}", step) / name);
  }

  TempFolder folder;
  fs::path model, result;
  std::string before;
  bool stopped_early = false;
};

TEST_F(Tuning, AnAdapterResumedIsUninterruptedToTheBitAndTheModelStays) {
  ASSERT_TRUE(tune(kLora, "one"));
  ASSERT_FALSE(tune(kLora, "two", false, 3));
  ASSERT_FALSE(tune(kLora, "two", true, 8));
  ASSERT_TRUE(tune(kLora, "two", true, 0, 1));
  for (const char* name : {"adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors"})
    EXPECT_TRUE(file("one", name) == file("two", name)) << name;
  EXPECT_TRUE(bytes_of(model / "model.safetensors") == before);
  const Json start = events("one", "start").front();
  // r (inputs + outputs): q and o 16 → 16, k and v 16 → 8; four experts of gate_up 16 → 48 and down 24 → 16; 4 rows.
  EXPECT_EQ(start["trainable"]["mixer"], 2 * 3 * (32 + 24 + 24 + 32));
  EXPECT_EQ(start["trainable"]["experts"], 2 * 4 * 3 * (16 + 48 + 24 + 16));
  EXPECT_EQ(start["trainable"]["router"], 2 * 3 * (16 + 4));
  EXPECT_LT(events("one", "evaluation").back()["validation"].get<double>(),
            events("one", "evaluation").front()["validation"].get<double>());

  // What the run measured is what the adapter gives at run time.
  families::OpenOptions options;
  options.adapter = folder / "one" / "checkpoints" / "step-0000012";
  EXPECT_NE(families::open_model(model, options).adapter, nullptr);
}

TEST_F(Tuning, FullTuningChangesItsPlacesAndNoOther) {
  const std::string recipe = changed(kLora, "lora: {targets: [attention, experts, router], rank: 3, alpha: 6}",
                                     "full: all, frozen: [router, embeddings]");
  ASSERT_TRUE(tune(recipe, "one"));
  ASSERT_FALSE(tune(recipe, "two", false, 7));
  ASSERT_TRUE(tune(recipe, "two", true));
  for (const char* name : {"model.safetensors", "optimizer.safetensors", "config.json"})
    EXPECT_TRUE(file("one", name) == file("two", name)) << name;
  const auto was = checkpoint::open_safetensors(model / "model.safetensors");
  const auto is = checkpoint::open_safetensors(folder / "one" / "checkpoints" / "step-0000012" / "model.safetensors");
  ASSERT_EQ(was->tensors().size(), is->tensors().size());
  for (const checkpoint::TensorInfo& a : was->tensors()) {
    const checkpoint::TensorInfo* b = is->find(a.name);
    ASSERT_NE(b, nullptr) << a.name;
    const bool frozen = a.name.find("gate.weight") != std::string::npos || a.name.find("embed") != std::string::npos;
    EXPECT_EQ(std::equal(a.bytes.begin(), a.bytes.end(), b->bytes.begin(), b->bytes.end()), frozen) << a.name;
  }
  EXPECT_FALSE(events("one", "start").front()["trainable"].contains("router"));
  EXPECT_FALSE(events("one", "start").front()["trainable"].contains("input_embeddings"));
}

TEST_F(Tuning, PatienceEndsTheRunAndKeepsTheBest) {
  // At this rate the loss gets worse from the first step on.
  std::string recipe = changed(kLora, "learning_rate: 1e-2", "learning_rate: 3, schedule: constant");
  recipe = changed(recipe, "steps: 12", "steps: 40");
  recipe = changed(recipe, "{every: 6}", "{every: 3, patience: 2}");
  ASSERT_TRUE(tune(recipe, "one"));
  EXPECT_TRUE(stopped_early);
  EXPECT_EQ(result, folder / "one" / "best");
  const Json end = events("one", "end").back();
  EXPECT_EQ(end["stopped_early"], true);
  double best = 1e9;
  int64_t best_step = -1, last = -1;
  for (const Json& e : events("one", "evaluation")) {
    if (e["validation"] < best) best = e["validation"], best_step = e["step"];
    last = e["step"];
  }
  EXPECT_EQ(end["best_step"], best_step);
  EXPECT_EQ(last, best_step + 6);
  EXPECT_TRUE(fs::exists(folder / "one" / "best" / "adapter_model.safetensors"));
  EXPECT_FALSE(fs::exists(folder / "one" / "best" / "optimizer.safetensors"));
  // Over is over; and interrupted on the way it is the same.
  EXPECT_TRUE(tune(recipe, "one", true));
  EXPECT_EQ(events("one", "end").size(), 1u);
  ASSERT_FALSE(tune(recipe, "two", false, 3));
  ASSERT_TRUE(tune(recipe, "two", true));
  EXPECT_EQ(events("two", "end").back()["best_step"], best_step);
  EXPECT_TRUE(bytes_of(folder / "one/best/adapter_model.safetensors") ==
              bytes_of(folder / "two/best/adapter_model.safetensors"));
}

TEST_F(Tuning, OfInstructionsOnlyAnswersAreScored) {
  folder.write("chat.jsonl",
               "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", \"content\": "
               "\"yo\"}, {\"role\": \"user\", \"content\": \"so\"}, {\"role\": \"assistant\", \"content\": \"ok\"}]}\n"
               "{\"prompt\": \"ab\", \"completion\": \"cd\"}\n\n"
               "{\"text\": \"xyz\", \"id\": 7}\n"
               "{\"prompt\": \"a prompt longer than the row\", \"completion\": \"z\"}\n"
               "{\"prompt\": \"p\", \"completion\": \"an answer longer than the row it is in\"}\n");
  const families::Model opened = families::open_model(model);
  const text::Tokenizer& tokenizer = *opened.tokenizer;
  const fs::path files[] = {folder / "chat.jsonl"};
  const InstructionCounts counts =
      write_instruction_file(folder / "samples.safetensors", files, tokenizer, &*opened.chat_template, 24);
  EXPECT_EQ(counts.samples, 4);
  EXPECT_EQ(counts.dropped, 1);
  EXPECT_EQ(counts.truncated, 1);
  const InstructionFile file = InstructionFile::open(folder / "samples.safetensors", tokenizer.vocabulary_size());
  ASSERT_EQ(file.size(), 4);
  const auto scored = [&](int64_t sample) {
    std::vector<int32_t> inputs, targets, kept;
    file.append(sample, inputs, targets);
    EXPECT_EQ(inputs.size(), targets.size());
    for (const int32_t target : targets)
      if (target >= 0) kept.push_back(target);
    EXPECT_EQ(file.scored(sample), std::ssize(kept));
    return tokenizer.decode(kept, false);
  };
  EXPECT_EQ(scored(0), "yo<|end|>ok<|end|>");
  EXPECT_EQ(scored(1), "cd<|end|>");
  EXPECT_EQ(scored(2), "yz<|end|>");
  EXPECT_EQ(scored(3), "an answer longer than th");

  const auto shared = std::make_shared<const InstructionFile>(file);
  const InstructionRows rows(shared, 0, 4, 24, true, 3);
  int64_t samples = 0;
  for (int64_t r = 0; r < rows.size(); ++r) {
    samples += std::ssize(rows.samples(r));
    EXPECT_LE(rows.inputs(r), 24);
  }
  EXPECT_EQ(samples, 4);
}

constexpr const char* kChat = R"(
tune: {lora: {targets: attention, rank: 2}}
data: {files: chat.jsonl, format: instructions, validation: 0.2}
training: {sequence: 32, batch: 2, steps: 6, learning_rate: 1e-2}
checkpoint: {every: 2}
)";

std::string conversations(int count, int long_one = -1) {
  std::string lines;
  for (int i = 0; i < count; ++i)
    lines += fmt::format("{{\"prompt\": \"q{}\", \"completion\": \"{}\"}}\n", i % 10,
                         i == long_one ? std::string(60, 'x') : std::string(static_cast<size_t>(3 + i % 7), 'y'));
  return lines;
}

TEST_F(Tuning, InstructionsTrainAndResumeToTheBit) {
  folder.write("chat.jsonl", conversations(40, 5));
  ASSERT_TRUE(tune(kChat, "one"));
  ASSERT_FALSE(tune(kChat, "two", false, 3));
  ASSERT_TRUE(tune(kChat, "two", true));
  EXPECT_TRUE(file("one", "adapter_model.safetensors", 6) == file("two", "adapter_model.safetensors", 6));
  const Json start = events("one", "start").front();
  EXPECT_EQ(start["instructions"]["training"]["samples"], 40);
  EXPECT_EQ(start["instructions"]["training"]["truncated"], 1);
  EXPECT_TRUE(events("one", "evaluation").back().contains("validation"));
  EXPECT_FALSE(events("one", "evaluation").back().contains("bits_per_byte"));
}

// Packed samples are sequences of their own: the loss of two in a row is that of each by itself.
TEST_F(Tuning, SamplesOfARowDoNotSeeEachOther) {
  folder.write("chat.jsonl", conversations(2));
  TuneRecipe recipe;
  recipe.model = model, recipe.full = {"norms"};
  TunedModel tuned(recipe, 0, {});
  const fs::path files[] = {folder / "chat.jsonl"};
  write_instruction_file(folder / "samples.safetensors", files, tuned.tokenizer(), tuned.chat_template(), 32);
  const auto samples = std::make_shared<const InstructionFile>(
      InstructionFile::open(folder / "samples.safetensors", tuned.tokenizer().vocabulary_size()));
  threads::Pool pool(1);
  tensor::Arena arena;
  ops::Context context{pool, kernels::select(), arena, ops::Precision::f32};
  Pass pass(tuned.decoder(), 32);
  const auto loss = [&](int64_t begin, int64_t end) {
    const auto rows = std::make_shared<const InstructionRows>(samples, begin, end, 32, false, 0);
    EXPECT_EQ(rows->size(), 1);
    const Split split{nullptr, 0, Windows(2, 1, Windows::Order::sequential, 0, "rows"), rows};
    return pass.loss(context, split, 0, 1, 0);
  };
  EXPECT_NEAR(loss(0, 2), loss(0, 1) + loss(1, 2), 1e-9);
}

TEST_F(Tuning, WhatCannotBeIsRefusedByName) {
  const auto refused = [&](const std::string& recipe, std::initializer_list<std::string_view> words) {
    expect_error(ErrorKind::bad_input, words, [&] { tune(recipe, "refused"); });
    EXPECT_FALSE(fs::exists(folder / "refused"));
  };
  refused(changed(kLora, "[attention, experts, router]", "[atention]"),
          {"atention", "did you mean", "experts.gate_up"});
  refused(changed(kLora, "[attention, experts, router]", "dense_ffn"), {"dense_ffn", "matches nothing"});
  refused(changed(kLora, "tune: {lora", "tune: {full: all, lora"), {"lora", "full"});
  refused(changed(kLora, "lora: {targets: [attention, experts, router], rank: 3, alpha: 6}", "full: [expert]"),
          {"expert", "experts"});
  refused(changed(kLora, "rank: 3", "rank: 0"), {"rank"});
  refused(changed(kLora, "rank: 3", "rnk: 3"), {"rnk", "rank"});
  refused(changed(kLora, "targets:", "targts:"), {"targts", "did you mean \"targets\"?"});
  refused(changed(kLora, "tune: {lora:", "tune: {lra:"), {"lra", "did you mean \"lora\"?"});
  refused(std::string("model: {}") + kLora, {"section model", "coterie train", "tune: {lora"});
  refused(changed(kLora, "tune:", "tuen:"), {"tuen", "did you mean \"tune\"?"});
}

TEST_F(Tuning, OtherRefusals) {
  expect_error(ErrorKind::unsupported, {"dropout", "experts"},
               [&] { tune(changed(kLora, "rank: 3", "rank: 3, dropout: 0.1"), "a"); });
  expect_error(ErrorKind::unsupported, {"dora", "experts"},
               [&] { tune(changed(kLora, "rank: 3", "rank: 3, dora: true"), "b"); });
  expect_error(ErrorKind::bad_input, {"patience", "validation"}, [&] {
    tune(changed(changed(kLora, "{every: 6}", "{every: 6, patience: 1}"), "validation: 0.2", "validation: 0"), "c");
  });
  // peft wraps a router as a parameter, and refuses both there.
  expect_error(ErrorKind::unsupported, {"dora", "router", "peft"}, [&] {
    tune(changed(kLora, "[attention, experts, router], rank: 3", "[attention, router], rank: 3, dora: true"), "e");
  });
  expect_error(ErrorKind::unsupported, {"dropout", "router", "peft"}, [&] {
    tune(changed(kLora, "[attention, experts, router], rank: 3", "[attention, router], rank: 3, dropout: 0.1"), "f");
  });
  // Nothing is left of what did not begin, neither the folder nor those made for it.
  for (const char* out : {"a", "b", "c", "e", "f"}) EXPECT_FALSE(fs::exists(folder / out)) << out;
  expect_error(ErrorKind::bad_input, {"100 tokens", "64 positions"},
               [&] { tune(changed(kLora, "sequence: 8", "sequence: 100"), "deep/er/run/"); });
  EXPECT_FALSE(fs::exists(folder / "deep"));
  expect_error(ErrorKind::not_found, {"config.json", "name its folder"}, [&] { describe_base(model / "config.json"); });
  // Another model under the same run.
  ASSERT_TRUE(tune(kLora, "run"));
  fs::copy(model, folder / "copy");
  model = folder / "copy";
  expect_error(ErrorKind::bad_input, {"model.path"}, [&] { tune(kLora, "run", true); });
  // A template that says something else of the beginning once there is more.
  folder.write("copy/chat_template.jinja", "{{ messages|length }}{% for m in messages %}{{ m.content }}{% endfor %}");
  folder.write("chat.jsonl",
               "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", "
               "\"content\": \"b\"}]}\n");
  expect_error(ErrorKind::unsupported, {"chat.jsonl: line 1", "continuation"}, [&] { tune(kChat, "d"); });
}

// Weights that were changed under a run, of as many bytes.
TEST_F(Tuning, ARunGoesOnOverTheWeightsItBeganWith) {
  ASSERT_FALSE(tune(kLora, "run", false, 3));
  const fs::path weights = model / "model.safetensors";
  std::string changed_bytes = before;
  changed_bytes.back() = static_cast<char>(changed_bytes.back() ^ 1);
  std::ofstream(weights, std::ios::binary) << changed_bytes;
  expect_error(ErrorKind::bad_input, {model.filename().string(), "weights are not those", "fingerprint", "(`run`)"},
               [&] { tune(kLora, "run", true); });
  std::ofstream(weights, std::ios::binary) << before;
  ASSERT_TRUE(tune(kLora, "run", true));
}

// A folder of somebody is left alone; an empty one, that of a start that was killed and those of variants are not.
TEST_F(Tuning, OnlyRunsAreGoneInto) {
  folder.write("foreign/notes.txt", "mine");
  expect_error(ErrorKind::bad_input, {"foreign", "is not a training run", "notes.txt"},
               [&] { tune(kLora, "foreign"); });
  expect_error(ErrorKind::bad_input, {"is not a training run"}, [&] { tune(kLora, "foreign", true); });
  EXPECT_EQ(std::distance(fs::directory_iterator(folder / "foreign"), fs::directory_iterator()), 1);
  folder.write("file", "mine");
  expect_error(ErrorKind::bad_input, {"is not a folder"}, [&] { tune(kLora, "file"); });

  const std::string quick = changed(kLora, "steps: 12", "steps: 1");
  fs::create_directories(folder / "empty");
  EXPECT_TRUE(tune(quick, "empty/variant"));
  folder.write("empty/recipe.json.part", "{}");
  folder.write("empty/config.json", "of a start that was killed");
  expect_error(ErrorKind::unsupported, {"dora"},
               [&] { tune(changed(quick, "rank: 3", "rank: 3, dora: true"), "empty"); });
  EXPECT_FALSE(fs::exists(folder / "empty" / "config.json"));
  EXPECT_TRUE(fs::exists(folder / "empty" / "variant" / "recipe.json"));
  folder.write("empty/recipe.json.part.17-0.part", "{");
  EXPECT_TRUE(tune(quick, "empty"));
  EXPECT_TRUE(fs::exists(folder / "empty" / "recipe.json"));
  EXPECT_FALSE(fs::exists(folder / "empty" / "recipe.json.part"));

  // What a start that was killed left excuses nothing else.
  folder.write("group/recipe.json.part", "{}");
  folder.write("group/notes.txt", "mine");
  expect_error(ErrorKind::bad_input, {"group", "is not a training run", "notes.txt"}, [&] { tune(quick, "group"); });
  EXPECT_TRUE(fs::exists(folder / "group" / "notes.txt"));
}

TEST_F(Tuning, AStartThatFailsTakesItsOwnFilesAlone) {
  const RunFolder run(folder / "shared");
  {
    const RunStart start(run, base::Json::object(), false);
    folder.write("shared/config.json", "{}");
    folder.write("shared/tokens.safetensors.12-0.part", "half");
    folder.write("shared/notes.txt", "mine");                 // put there meanwhile,
    folder.write("shared/runs/b/variant/recipe.json", "{}");  // both of them
    expect_error(ErrorKind::bad_input, {"another process", "training into it"},
                 [&] { const RunStart second(run, base::Json::object(), false); });
  }
  EXPECT_TRUE(fs::exists(folder / "shared" / "notes.txt"));
  EXPECT_TRUE(fs::exists(folder / "shared" / "runs" / "b" / "variant" / "recipe.json"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder / "shared"), fs::directory_iterator()), 2);
  // A run that another process began since the folder was looked at is not begun again, nor taken away.
  folder.write("begun/recipe.json", "{}");
  const RunFolder begun(folder / "begun");
  expect_error(ErrorKind::bad_input, {"begun", "another process has begun"},
               [&] { const RunStart start(begun, base::Json::object(), false); });
  EXPECT_TRUE(fs::exists(begun.recipe()));
}

TEST_F(Tuning, EvaluationsAfterTheCheckpointThatARunWentOnFromDoNotCount) {
  const fs::path log =
      folder.write("log.jsonl",
                   "{\"kind\": \"evaluation\", \"step\": 150}\n{\"kind\": \"evaluation\", \"step\": 350}\n"
                   "{\"kind\": \"resume\", \"step\": 200}\n{\"kind\": \"step\", \"step\": 250}\n");
  EXPECT_EQ(LogFile(log, true).evaluated(), 150);
}

TEST_F(Tuning, WeightsOfMessagesSayWhichAnswersAreScored) {
  const families::Model opened = families::open_model(model);
  const auto scored = [&](const std::string& line) {
    const fs::path files[] = {folder.write("chat.jsonl", line + "\n")};
    write_instruction_file(folder / "s.safetensors", files, *opened.tokenizer, &*opened.chat_template, 40);
    const auto file = InstructionFile::open(folder / "s.safetensors", opened.tokenizer->vocabulary_size());
    std::vector<int32_t> inputs, targets, kept;
    file.append(0, inputs, targets);
    for (const int32_t target : targets)
      if (target >= 0) kept.push_back(target);
    return std::pair(opened.tokenizer->decode(kept, false), inputs);
  };
  const auto chat = [](const std::string& first, const std::string& second) {
    return R"({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo")" + first +
           R"(}, {"role": "user", "content": "so"}, {"role": "assistant", "content": "ok")" + second + "}]}";
  };
  const std::string none, zero = ", \"weight\": 0", one = ", \"weight\": 1";
  const auto [both, read] = scored(chat(none, one));
  EXPECT_EQ(both, "yo<|end|>ok<|end|>");
  EXPECT_EQ(scored(chat(zero, one)), std::pair(std::string("ok<|end|>"), read));
  EXPECT_EQ(scored(chat(zero, none)), std::pair(std::string("ok<|end|>"), read));
  EXPECT_EQ(scored(chat(one, zero)).first, "yo<|end|>");
  const auto refused = [&](const std::string& line, std::initializer_list<std::string_view> words) {
    expect_error(ErrorKind::bad_input, words, [&] { scored("{\"text\": \"ab\"}\n\n" + line); });
  };
  refused(chat(none, ", \"weight\": 0.5"), {"chat.jsonl: line 3: messages[3]", "weight is 0.5", "0", "1"});
  refused(chat(none, ", \"weight\": true"), {"messages[3]", "weight is true"});
  refused(R"({"messages": [{"role": "user", "content": "a", "weight": 1}, {"role": "assistant", "content": "b"}]})",
          {"line 3: messages[0]", "user"});
  refused(chat(none, ", \"wieght\": 0"), {"line 3: messages[3]", "wieght", "did you mean \"weight\"?"});
  const auto roles = [](const std::string& user, const std::string& assistant) {
    return R"({"messages": [{"role": ")" + user + R"(", "content": "a"}, {"role": ")" + assistant +
           R"(", "content": "b"}]})";
  };
  refused(roles("user", "asistant"), {"line 3: messages[1]", "asistant", "did you mean \"assistant\"?"});
  refused(roles("usr", "assistant"), {"line 3: messages[0]", "usr", "did you mean \"user\"?"});
  refused(roles("human", "assistant"), {"line 3: messages[0]", "human", "roles are system"});
  refused(R"({"prompt": "a", "completoin": "b"})", {"line 3", "completoin", "did you mean \"completion\"?"});
  refused(R"({"text": "a", "labels": [1]})", {"line 3", "labels", "known here"});
  refused(R"({"prompt": "a", "completion": "b", "messages": []})", {"line 3", "messages and prompt", "side by side"});
  refused(R"({"prompt": "a", "completion": "b", "text": "c"})", {"line 3", "text", "side by side"});
  refused(R"({"messages": [], "text": "c"})", {"line 3", "messages and text"});
  refused(R"({"prompt": "a", "completion": "b", "tools": []})", {"line 3", "tools"});
}

// Forms of data that others know say how to write them here.
TEST_F(Tuning, OtherFormsOfDataAreNamed) {
  const families::Model opened = families::open_model(model);
  const auto refused = [&](ErrorKind kind, const std::string& line, std::initializer_list<std::string_view> words) {
    const fs::path files[] = {folder.write("chat.jsonl", line + "\n")};
    expect_error(kind, words, [&] {
      write_instruction_file(folder / "s.safetensors", files, *opened.tokenizer, &*opened.chat_template, 40);
    });
  };
  refused(ErrorKind::bad_input, R"({"instruction": "a", "input": "", "output": "b"})", {"line 1", "Alpaca"});
  refused(ErrorKind::bad_input, R"({"conversations": [{"from": "human", "value": "a"}]})", {"line 1", "ShareGPT"});
  refused(ErrorKind::unsupported, R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]})",
          {"line 1: messages[0]", "list of parts"});
  refused(ErrorKind::bad_input, R"({"messages": [{"role": "user", "content": "a"}]})", {"no answer to learn"});
  refused(ErrorKind::bad_input, "{\"text\": \"caf\xe9\"}", {"line 1", "UTF-8"});
}

// DoRA and dropout over linear projections, through the trainer.
TEST_F(Tuning, MagnitudesAndDropoutResumeToTheBit) {
  const std::string recipe = changed(kLora, "targets: [attention, experts, router], rank: 3",
                                     "targets: attention, rank: 3, dora: true, dropout: 0.2, rslora: true");
  ASSERT_TRUE(tune(recipe, "one"));
  ASSERT_FALSE(tune(recipe, "two", false, 7));
  ASSERT_TRUE(tune(recipe, "two", true));
  EXPECT_TRUE(file("one", "adapter_model.safetensors") == file("two", "adapter_model.safetensors"));
}

}  // namespace
}  // namespace coterie::train
