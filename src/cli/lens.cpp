#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <memory>
#include <numeric>

#include "base/atomic_file.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/plural.h"
#include "base/utf8.h"
#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/help.h"
#include "cli/options.h"
#include "cli/output_file.h"
#include "cli/terminal.h"
#include "cli/text_input.h"
#include "lens/lens_report.h"
#include "lens/study.h"
#include "lens/tagged_text.h"

namespace coterie::cli {

namespace {

namespace fs = std::filesystem;

struct LensOptions {
  ModelOptions model;
  std::vector<std::string> tagged, texts, checkpoints;
  std::string out;
  int64_t window = 512, tokens = 0;
  lens::StudyOptions study;
  bool force = false;
};

std::vector<lens::Document> documents_of(const LensOptions& options) {
  std::vector<lens::Document> documents;
  for (const std::string& path : options.tagged)
    for (lens::Document& document : lens::read_tagged(path)) documents.push_back(std::move(document));
  for (const std::string& file : options.texts) {
    lens::Document document{.name = file, .genre = {}, .text = file_contents(file), .words = {}};
    base::require_utf8(document.text, name_of_input(file), "the text");
    document.genre = fs::absolute(file).parent_path().filename().string();
    documents.push_back(std::move(document));
  }
  return documents;
}

/// The documents as tokens, of each no more than makes `most` in all (0: no limit), with their tags.
lens::Corpus corpus_of(const text::Tokenizer& tokenizer, const std::vector<lens::Document>& documents, int64_t most) {
  lens::Corpus corpus;
  std::vector<std::vector<int32_t>> ids;
  for (const lens::Document& document : documents) ids.push_back(tokenizer.encode(document.text, false));
  int64_t limit = std::numeric_limits<int64_t>::max();
  if (most > 0) {
    std::vector<int64_t> sizes;
    for (const auto& one : ids) sizes.push_back(std::ssize(one));
    std::sort(sizes.begin(), sizes.end());
    int64_t left = most;
    for (size_t i = 0; i < sizes.size(); ++i) {
      const int64_t even = left / static_cast<int64_t>(sizes.size() - i);
      if (sizes[i] > even) {
        limit = std::max<int64_t>(even, 1);
        break;
      }
      left -= sizes[i];
    }
  }
  bool tagged = false;
  corpus.documents = {0};
  for (size_t d = 0; d < documents.size(); ++d) {
    const lens::Document& document = documents[d];
    std::vector<int32_t> words(ids[d].size(), -1);
    if (!document.words.empty()) words = lens::align(tokenizer, ids[d], document), tagged = true;
    const int64_t count = std::min(std::ssize(ids[d]), limit);
    for (int64_t t = 0; t < count; ++t) {
      corpus.ids.push_back(ids[d][static_cast<size_t>(t)]);
      const int32_t word = words[static_cast<size_t>(t)];
      int32_t tag = -1;
      if (word >= 0) {
        const std::string& name = document.words[static_cast<size_t>(word)].tag;
        if (name.empty()) {
          corpus.tag.push_back(-1);
          continue;
        }
        tag = static_cast<int32_t>(std::find(corpus.tags.begin(), corpus.tags.end(), name) - corpus.tags.begin());
        if (tag == std::ssize(corpus.tags)) corpus.tags.push_back(name);
      }
      corpus.tag.push_back(tag);
    }
    if (count == 0) continue;
    corpus.documents.push_back(std::ssize(corpus.ids));
    corpus.names.push_back(document.name), corpus.genres.push_back(document.genre);
  }
  if (!tagged) corpus.tag.clear();
  if (corpus.ids.size() < 2)
    base::fail(base::ErrorKind::bad_input, documents.size() == 1 ? name_of_input(documents.front().name) : "--text",
               "holds {}: there is nothing to study, expected some hundred at least",
               base::plural(std::ssize(corpus.ids), "token"));
  return corpus;
}

/// What the model's routers decide of the corpus, each window from an empty context, several of them at once.
lens::Choices read(runtime::Engine& engine, const lens::Corpus& corpus, int64_t wanted, std::vector<int32_t>* positions,
                   Progress& progress, const InterruptFlag& interrupt) {
  std::vector<int32_t> start = engine.tokenizer().encode("", true);
  if (!start.empty()) start.resize(engine.tokenizer().bos() == start.front() ? 1 : 0);
  const int64_t skipped = std::ssize(start), window = std::min(wanted, engine.context_size());
  const int64_t fresh = window - skipped;
  if (fresh < 2) base::fail(base::ErrorKind::bad_input, "--window", "is {}, which leaves no token to read", window);
  lens::ChoiceRecorder recorder(lens::router_shape(engine.spec()));
  const auto row = static_cast<size_t>(recorder.shape().count()), k = static_cast<size_t>(recorder.shape().choices);
  lens::Choices all;
  std::vector<std::vector<int32_t>> windows;
  int64_t waiting = 0;
  const auto evaluate = [&] {
    if (windows.empty()) return;
    std::vector<runtime::KvCache> caches;
    for (size_t i = 0; i < windows.size(); ++i) caches.push_back(engine.make_cache());
    std::vector<models::SequenceStep> steps;
    for (size_t i = 0; i < windows.size(); ++i)
      steps.push_back({.ids = windows[i],
                       .state = &caches[i],
                       .logits = models::SequenceStep::Logits::none,
                       .random_key = i + 1,
                       .length = std::ssize(windows[i])});
    engine.evaluate(steps, {.observer = &recorder});
    const lens::Choices& seen = recorder.choices();
    size_t at = 0;
    for (const std::vector<int32_t>& ids : windows) {
      const size_t begin = at + static_cast<size_t>(skipped), end = at + ids.size();
      const auto take = [&](auto& to, const auto& from, size_t each) {
        to.insert(to.end(), from.begin() + static_cast<int64_t>(begin * each),
                  from.begin() + static_cast<int64_t>(end * each));
      };
      take(all.experts, seen.experts, row * k), take(all.weights, seen.weights, row * k),
          take(all.entropy, seen.entropy, row);
      at = end;
    }
    recorder.clear(), windows.clear(), waiting = 0;
  };
  for (size_t d = 0; d + 1 < corpus.documents.size(); ++d)
    for (int64_t t = corpus.documents[d]; t < corpus.documents[d + 1]; t += fresh) {
      if (interrupt.raised())
        throw base::Error(base::ErrorKind::interrupted, "lens", "interrupted: nothing was written");
      const int64_t end = std::min(t + fresh, corpus.documents[d + 1]);
      if (waiting + skipped + end - t > engine.step_tokens()) {
        evaluate();
        progress.show(fmt::format("{} of {} tokens", t, corpus.tokens()));
      }
      std::vector<int32_t>& ids = windows.emplace_back(start);
      ids.insert(ids.end(), corpus.ids.begin() + t, corpus.ids.begin() + end);
      waiting += std::ssize(ids);
      for (int64_t p = 0; positions && p < end - t; ++p) positions->push_back(static_cast<int32_t>(p + skipped));
    }
  evaluate();
  return all;
}

lens::RouterShape routers_of(const runtime::Engine& engine, const std::string& path) {
  try {
    return lens::router_shape(engine.spec());
  } catch (const base::Error& error) {
    throw error.within(path);
  }
}

/// What short texts cannot say.
std::string shortcomings(const lens::Corpus& corpus) {
  constexpr int64_t kFew = 2000;
  std::string text;
  if (corpus.tokens() < kFew)
    text =
        fmt::format("{} are few: classes seen fewer than five times are left out, and much of what is left is chance",
                    base::plural(corpus.tokens(), "token"));
  if (corpus.names.size() == 1)
    text += fmt::format("{}one document shows neither what belongs to a text nor how far the figures may be off",
                        text.empty() ? "" : "; ");
  return text;
}

int lens_command(LensOptions& options) {
  const fs::path json = fs::path(options.out).replace_extension(".json");
  if (fs::path(options.out).extension() == ".json")
    base::fail(base::ErrorKind::bad_input, "--output", "{} is to be the page; its figures go to a .json beside it",
               options.out);
  refuse_output_file(options.out, options.force);
  std::error_code absent;
  if (fs::is_directory(json, absent))
    base::fail(base::ErrorKind::bad_input, "--output", "the figures of {} would go to {}, which is a folder",
               options.out, json.string());
  refuse_output_file(json, options.force);
  runtime::Engine engine = open_engine(options.model);
  const std::vector<lens::Document> documents = documents_of(options);
  lens::Corpus corpus = corpus_of(engine.tokenizer(), documents, options.tokens);
  corpus.shape = routers_of(engine, options.model.model);
  std::vector<std::string> pieces(static_cast<size_t>(engine.spec().vocabulary));
  for (const int32_t id : corpus.ids)
    if (std::string& piece = pieces[static_cast<size_t>(id)]; piece.empty())
      piece = engine.tokenizer().decode({{id}}, false);
  corpus.text_of = [&](int32_t id) { return pieces[static_cast<size_t>(id)]; };
  Progress progress;
  const InterruptFlag interrupt;
  const base::Stopwatch clock;
  corpus.choices = read(engine, corpus, options.window, &corpus.position, progress, interrupt);
  const double reading = clock.seconds();
  progress.show("counting");
  base::Json study = lens::study(corpus, engine.context().pool, options.study);
  study["model"] = engine.model().name;
  study["window"] = std::min(options.window, engine.context_size());
  study["texts"] = base::Json::array();
  for (const std::vector<std::string>* list : {&options.tagged, &options.texts})
    for (const std::string& name : *list) study["texts"].push_back(name);
  const double counting = clock.seconds() - reading;
  study["checkpoints"] = base::Json::array();
  for (const std::string& checkpoint : options.checkpoints) {
    ModelOptions earlier = options.model;
    earlier.model = checkpoint;
    runtime::Engine other = open_engine(earlier);
    if (routers_of(other, checkpoint) != corpus.shape || other.spec().vocabulary != engine.spec().vocabulary)
      base::fail(base::ErrorKind::bad_input, checkpoint, "has other routers, or another vocabulary, than {}",
                 options.model.model);
    study["checkpoints"].push_back(
        {{"name", checkpoint},
         {"agreement", lens::agreement(corpus.shape, read(other, corpus, options.window, nullptr, progress, interrupt),
                                       corpus.choices)}});
  }
  progress.clear();
  // Both or neither.
  base::AtomicFile figures(json), page(options.out);
  figures.write(study.dump(1, ' ', false, base::Json::error_handler_t::replace) + "\n");
  page.write(lens::lens_report(study));
  figures.commit();
  page.commit();
  print_note(fmt::format("{} and {}: {} of {}; read in {:.1f} s, counted in {:.1f} s", options.out,
                         json.filename().string(), base::plural(corpus.tokens(), "token"),
                         base::plural(std::ssize(corpus.names), "document"), reading, counting));
  print(lens::describe(study));
  if (const std::string text = shortcomings(corpus); !text.empty()) print_note("note: " + text);
  return 0;
}

}  // namespace

void add_lens(CLI::App& app, Action& action) {
  auto options = std::make_shared<LensOptions>();
  CLI::App* command = app.add_subcommand("lens", "Show what the experts of a model do with a text: a page of figures");
  options->model.add_model(*command);
  {
    const Heading heading(*command, kInput);
    command
        ->add_option("--tagged", options->tagged,
                     "Texts as word_TAG, a file or a folder (with a categories.txt where genres have names)")
        ->type_name("PATH")
        ->check(reads());
    command
        ->add_option("--text", options->texts, "Plain texts, UTF-8; each is a document, its genre the folder it is in")
        ->type_name("FILE")
        ->check(reads());
    command
        ->add_option("--tokens", options->tokens,
                     "Only so many tokens in all: of each document the first, as evenly as can be")
        ->type_name("N")
        ->check(at_least(2));
    command->add_option("--window", options->window, "Tokens that are read together (default: 512)")
        ->type_name("N")
        ->check(at_least(2));
    command
        ->add_option("--checkpoint", options->checkpoints,
                     "An earlier checkpoint of the model's training, to show how early its routers chose as they do "
                     "now; may be given several times")
        ->type_name("MODEL")
        ->check(reads());
    command
        ->add_option("--permutations", options->study.permutations,
                     "How many random orders of the labels the counts are compared with (default: 20)")
        ->type_name("N")
        ->check(between(1, 10000));
    command->add_option("--seed", options->study.seed, "The seed of those orders (default: 1)")
        ->type_name("N")
        ->check(at_least(0));
  }
  {
    const Heading heading(*command, kOutput);
    command
        ->add_option("-o,--output", options->out,
                     "The page, one HTML file that needs nothing else; its figures go to a .json beside it")
        ->type_name("REPORT.html")
        ->check(writes(Writes::page))
        ->required();
    add_force(*command, options->force);
  }
  options->model.add_routing(*command);
  options->model.add_engine(*command, false);
  command->footer(
      "Examples:\n"
      "  coterie lens model.gguf --text book.txt --text mail.txt -o report.html\n"
      "  coterie lens model.gguf --tagged masc_tagged -o masc.html --tokens 100000");
  command->callback([=, &action] {
    if (options->tagged.empty() && options->texts.empty()) throw CLI::RequiredError("--tagged or --text");
    action = [options] { return lens_command(*options); };
  });
}

}  // namespace coterie::cli
