#include <algorithm>
#include <set>

#include "base/error.h"
#include "ops/log_sum_exp.h"
#include "runtime/library/impl.h"

namespace coterie {

using library::call_back;
using library::translated;

namespace {

runtime::GenerationOptions options_of(const GenerateOptions& options, OnText on_text) {
  runtime::GenerationOptions out;
  runtime::SamplerOptions& sampler = out.sampler;
  sampler.logit_bias = options.logit_bias;
  sampler.repeat_penalty = options.repeat_penalty, sampler.repeat_last_n = options.repeat_last_n;
  sampler.presence_penalty = options.presence_penalty, sampler.frequency_penalty = options.frequency_penalty;
  sampler.temperature = options.temperature;
  sampler.top_k = options.top_k, sampler.top_p = options.top_p, sampler.min_p = options.min_p;
  sampler.typical = options.typical;
  sampler.dry_multiplier = options.dry_multiplier, sampler.dry_base = options.dry_base;
  sampler.dry_allowed_length = options.dry_allowed_length, sampler.dry_penalty_last_n = options.dry_penalty_last_n;
  sampler.dry_sequence_breakers = options.dry_sequence_breakers;
  sampler.xtc_probability = options.xtc_probability, sampler.xtc_threshold = options.xtc_threshold;
  sampler.top_n_sigma = options.top_n_sigma;
  sampler.dynatemp_range = options.dynatemp_range, sampler.dynatemp_exp = options.dynatemp_exp;
  sampler.mirostat = options.mirostat;
  sampler.mirostat_lr = options.mirostat_lr, sampler.mirostat_ent = options.mirostat_ent;
  sampler.seed = options.seed;
  out.max_tokens = options.max_tokens;
  out.stop = options.stop;
  out.ignore_end = options.ignore_end;
  out.interrupt = options.interrupt;
  if (on_text) out.on_text = [call = std::move(on_text)](std::string_view text) { call_back(call, text); };
  return out;
}

std::optional<text::Constraint> constraint_of(const GenerateOptions& options, const runtime::Engine& engine) {
  const auto given = !options.json_schema.empty() + !options.grammar.empty() + !options.regex.empty();
  if (given > 1)
    throw base::Error(base::ErrorKind::bad_input, "options", "json_schema, grammar and regex exclude each other",
                      "give one of them");
  if (given == 0) return std::nullopt;
  const text::Tokenizer& tokenizer = engine.tokenizer();  // some models have none
  if (!options.json_schema.empty()) return text::Constraint::json_schema(tokenizer, options.json_schema, "json_schema");
  if (!options.grammar.empty()) return text::Constraint::lark(tokenizer, options.grammar, "grammar");
  return text::Constraint::regex(tokenizer, options.regex, "regex");
}

// Logits that a step holds: 32 MB, but never steps so short that weights are read too often.
constexpr int64_t kStepRows = 8 << 20, kShortestStep = 32;

}  // namespace

void Session::Impl::give_up_text() {
  if (!holds_cache()) return;
  caches.insert_or_assign(engine, generation->release());
  released_ = true;
}

const runtime::TokenCache* Session::Impl::held() const {
  if (holds_cache()) return &generation->tokens();
  const auto found = caches.find(engine);
  return found == caches.end() ? nullptr : &found->second;
}

runtime::TokenCache& Session::Impl::cache(runtime::Engine& with) {
  const auto found = caches.find(&with);
  if (found != caches.end()) return found->second;
  return caches.emplace(&with, runtime::TokenCache{with.make_cache(), {}}).first->second;
}

void Session::Impl::start(std::span<const int32_t> prompt, const GenerateOptions& options, OnText on_text) {
  runtime::GenerationOptions generation_options = options_of(options, std::move(on_text));
  generation_options.cancel = &cancelled;
  runtime::Engine* answers = nullptr;
  {
    const Model::Impl::Turn turn(of());
    answers = &of().engines.choose(prompt, &generation_options.model_weights);
  }
  generation_options.constraint = constraint_of(options, *answers);
  give_up_text();
  cancelled = false;
  // Made first, so that a prompt that is refused leaves what is here.
  runtime::Generation next(*answers, std::move(cache(*answers)), prompt, std::move(generation_options));
  generation.emplace(std::move(next));
  caches.erase(answers);
  engine = answers, released_ = false, routing_error = nullptr;
}

Generated Session::Impl::generate(std::span<const int32_t> prompt, const GenerateOptions& options,
                                  const OnText& on_text) {
  start(prompt, options, on_text);
  Session::Impl* const one = this;
  try {
    while (writes()) library::step(of(), {&one, 1});
  } catch (...) {
    give_up_text();
    throw;
  }
  give_up_text();
  if (generation->error()) std::rethrow_exception(generation->error());
  return generated();
}

Generated Session::Impl::generated() const {
  if (!generation) return {};
  const runtime::GenerationStatistics& statistics = generation->statistics();
  return {.text = generation->text(),
          .tokens = {generation->generated().begin(), generation->generated().end()},
          .finish = static_cast<Finish>(generation->finish()),
          .prompt_tokens = statistics.prompt_tokens,
          .reused_tokens = statistics.reused_tokens,
          .prompt_seconds = statistics.prompt_seconds,
          .decode_seconds = statistics.decode_seconds};
}

void Session::Impl::read(std::span<const int32_t> ids, int64_t from, layers::PassOptions pass,
                         const std::function<void(int64_t position, std::span<const float> row)>& row) {
  using Logits = models::SequenceStep::Logits;
  if (ids.empty()) base::fail(base::ErrorKind::bad_input, "ids", "are none: there is nothing to read");
  const Model::Impl::Turn turn(of());
  std::vector<double> weights;
  runtime::Engine& with = of().engines.choose(ids, &weights);
  give_up_text();
  const int64_t length = std::ssize(ids);
  with.check_ids(ids);
  if (length > with.context_size())
    base::fail(base::ErrorKind::bad_input, "ids", "are {}, which do not fit in a context of {}", length,
               with.context_size());
  engine = &with;
  runtime::TokenCache& tokens = cache(with);
  tokens.keep_prefix_for(*with.model().decoder, ids.first(static_cast<size_t>(from)), length);
  library::RoutingObserver routing;
  routing_error = nullptr;
  if (on_routing) routing.watch(&tokens.cache, *this);
  layers::Observers observers{on_routing ? &routing : nullptr, pass.observer};
  pass.observer = observers.get();

  const int64_t rows_at_once = std::clamp<int64_t>(kStepRows / with.spec().vocabulary,
                                                   std::min(kShortestStep, with.step_tokens()), with.step_tokens());
  while (tokens.cache.length() < length) {
    const int64_t at = tokens.cache.length();
    const bool wanted = row && at >= from;
    int64_t count = std::min({wanted ? rows_at_once : with.step_tokens(), length - at, tokens.cache.until_snapshot()});
    if (row && at < from) count = std::min(count, from - at);
    const models::SequenceStep step{.ids = ids.subspan(static_cast<size_t>(at), static_cast<size_t>(count)),
                                    .state = &tokens.cache,
                                    .logits = wanted ? Logits::all : Logits::none,
                                    .length = length,
                                    .model_weights = weights};
    const tensor::Matrix rows = with.evaluate({&step, 1}, pass);
    tokens.ids.insert(tokens.ids.end(), step.ids.begin(), step.ids.end());
    tokens.written_for = length;
    if (routing_error) std::rethrow_exception(routing_error);
    for (int64_t r = 0; r < rows.rows; ++r) row(at + r, {rows.row(r), static_cast<size_t>(rows.cols)});
  }
  tokens.cache.remember();
}

Session::Session(const Model& model) : impl_(std::make_unique<Impl>(model)) {}
Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::~Session() = default;

const Model& Session::model() const noexcept { return impl_->model; }

Generated Session::generate(std::string_view prompt, const GenerateOptions& options, const OnText& on_text) {
  return generate(impl_->model.tokenize(prompt), options, on_text);
}
Generated Session::generate(std::span<const int32_t> prompt, const GenerateOptions& options, const OnText& on_text) {
  return translated([&] { return impl_->generate(prompt, options, on_text); });
}
Generated Session::chat(std::span<const Message> messages, const GenerateOptions& options, const OnText& on_text) {
  const std::string prompt = impl_->model.apply_chat_template(messages);
  // The template writes the special tokens out, a BOS included.
  return generate(impl_->model.tokenize(prompt, false), options, on_text);
}
Generated Session::chat(std::initializer_list<Message> messages, const GenerateOptions& options,
                        const OnText& on_text) {
  return chat(std::span(messages.begin(), messages.size()), options, on_text);
}

void Session::start(std::span<const int32_t> prompt, const GenerateOptions& options, OnText on_text) {
  translated([&] { impl_->start(prompt, options, std::move(on_text)); });
}
void Session::start(std::string_view prompt, const GenerateOptions& options, OnText on_text) {
  start(impl_->model.tokenize(prompt), options, std::move(on_text));
}
bool Session::finished() const noexcept { return !impl_->writes(); }
Finish Session::finish() const noexcept {
  return impl_->generation ? static_cast<Finish>(impl_->generation->finish()) : Finish::not_yet;
}
Generated Session::generated() const {
  return translated([&] { return impl_->generated(); });
}
std::exception_ptr Session::error() const noexcept {
  return impl_->generation ? library::translated_error(impl_->generation->error()) : nullptr;
}
void Session::cancel() noexcept { impl_->cancelled = true; }

std::vector<float> Session::logits(std::span<const int32_t> ids) {
  return logits(ids, std::max<int64_t>(std::ssize(ids) - 1, 0));
}

std::vector<float> Session::logits(std::span<const int32_t> ids, int64_t first) {
  return translated([&] {
    if (first < 0 || first >= std::max<int64_t>(std::ssize(ids), 1))
      base::fail(base::ErrorKind::bad_input, "first", "is {}, of {} ids", first, ids.size());
    std::vector<float> result;
    impl_->read(ids, first, {},
                [&](int64_t, std::span<const float> row) { result.insert(result.end(), row.begin(), row.end()); });
    return result;
  });
}

std::vector<double> Session::score(std::span<const int32_t> ids, int64_t first) {
  return translated([&] {
    if (first < 1 || first >= std::ssize(ids))
      base::fail(base::ErrorKind::bad_input, "first", "is {} of {} ids, expected at least 1 and less than their number",
                 first, ids.size());
    // The last one's own logits are not asked for, but its id is checked with the others.
    impl_->of().engines.front().check_ids(ids.last(1));
    std::vector<double> result;
    impl_->read(ids.first(ids.size() - 1), first - 1, {}, [&](int64_t position, std::span<const float> row) {
      const auto next = static_cast<size_t>(ids[static_cast<size_t>(position) + 1]);
      result.push_back(static_cast<double>(row[next]) - ops::log_sum_exp(row.data(), std::ssize(row)));
    });
    return result;
  });
}

std::vector<float> Session::hidden_states(std::span<const int32_t> ids, int64_t layer) {
  return translated([&] {
    Model::Impl& model = impl_->of();
    if (model.names.size() > 1)
      throw base::Error(base::ErrorKind::unsupported, model.engines.name(),
                        "is an ensemble, whose models have no hidden state in common", "load one of its models");
    if (layer < -1 || layer >= impl_->model.layers())
      base::fail(base::ErrorKind::bad_input, "layer", "is {}, expected 0 to {}, or -1 for after the final norm", layer,
                 impl_->model.layers() - 1);
    std::vector<float> result;
    const auto add = [&](std::span<const float> row) { result.insert(result.end(), row.begin(), row.end()); };
    if (layer < 0) {
      impl_->read(ids, 0, {.hidden = true}, [&](int64_t, std::span<const float> row) { add(row); });
      return result;
    }
    class OfLayer final : public layers::Observer {
     public:
      OfLayer(int64_t layer, const decltype(add)& add) : layer_(layer), add_(add) {}
      void block(int64_t layer, tensor::ConstMatrix x) override {
        for (int64_t r = 0; layer == layer_ && r < x.rows; ++r) add_({x.row(r), static_cast<size_t>(x.cols)});
      }

     private:
      int64_t layer_;
      const decltype(add)& add_;
    } observer(layer, add);
    impl_->read(ids, 0, {.observer = &observer}, nullptr);
    return result;
  });
}

std::vector<float> Session::embedding(std::span<const int32_t> ids, Pooling pooling) {
  const std::vector<float> states = hidden_states(ids);
  return translated([&] {
    const size_t width = states.size() / ids.size();
    if (pooling == Pooling::last) return std::vector<float>(states.end() - static_cast<int64_t>(width), states.end());
    std::vector<double> sum(width);
    for (size_t i = 0; i < states.size(); ++i) sum[i % width] += static_cast<double>(states[i]);
    std::vector<float> mean;
    for (const double of : sum) mean.push_back(static_cast<float>(of / static_cast<double>(ids.size())));
    return mean;
  });
}

void Session::on_routing(OnRouting callback) { impl_->on_routing = std::move(callback); }

std::vector<int32_t> Session::tokens() const {
  return translated([&]() -> std::vector<int32_t> {
    const runtime::TokenCache* const held = impl_->held();
    if (!held) return {};
    return {held->ids.begin(), held->ids.begin() + std::min(std::ssize(held->ids), held->cache.length())};
  });
}

int64_t Session::length() const noexcept { return impl_->held() ? impl_->held()->cache.length() : 0; }

int64_t Session::own_bytes() const {
  return translated([&] {
    int64_t bytes = 0;
    for (const auto& [engine, tokens] : impl_->caches) bytes += tokens.cache.own_bytes();
    if (impl_->holds_cache()) bytes += impl_->generation->tokens().cache.own_bytes();
    return bytes;
  });
}

Session Session::fork() const {
  return translated([&] {
    auto other = std::make_unique<Impl>(impl_->model);
    for (const auto& [engine, tokens] : impl_->caches) other->caches.emplace(engine, tokens.fork());
    if (impl_->holds_cache()) other->caches.emplace(impl_->engine, impl_->generation->tokens().fork());
    other->engine = impl_->engine;
    return Session(std::move(other));
  });
}

int64_t Session::truncate(int64_t length) {
  return translated([&] {
    if (length < 0 || length > this->length())
      base::fail(base::ErrorKind::bad_input, "length", "is {}, expected 0 to {}", length, this->length());
    impl_->give_up_text();
    if (impl_->engine) {
      runtime::TokenCache& tokens = impl_->cache(*impl_->engine);
      const std::vector<int32_t> kept(tokens.ids.begin(), tokens.ids.begin() + length);
      tokens.keep_prefix(kept);
    }
    return this->length();
  });
}

}  // namespace coterie
