// The promised header, in terms of the rooms.
#include <coterie/coterie.h>

#include <utility>

#include "base/error.h"
#include "models/account.h"
#include "runtime/engine.h"
#include "runtime/generation.h"
#include "runtime/version.h"

namespace coterie {

namespace {

Error::Kind kind_of(base::ErrorKind kind) {
  switch (kind) {
    case base::ErrorKind::bad_input: return Error::Kind::bad_input;
    case base::ErrorKind::unsupported: return Error::Kind::unsupported;
    case base::ErrorKind::not_found: return Error::Kind::not_found;
    case base::ErrorKind::out_of_memory: return Error::Kind::out_of_memory;
    case base::ErrorKind::io: return Error::Kind::io;
    case base::ErrorKind::interrupted: return Error::Kind::interrupted;
    case base::ErrorKind::internal: return Error::Kind::internal;
  }
  return Error::Kind::internal;
}

// Nothing but coterie::Error leaves the library, except what a caller's own callback throws.
template <typename Body>
auto translated(Body body) {
  try {
    return body();
  } catch (const base::Error& error) {
    throw Error(kind_of(error.kind()), error.where(), error.message(), error.hint(), error.what());
  }
}

runtime::GenerationOptions options_of(const GenerateOptions& options, const Model::OnText& on_text) {
  runtime::GenerationOptions out;
  runtime::SamplerOptions& sampler = out.sampler;
  sampler.logit_bias = options.logit_bias;
  sampler.repeat_penalty = options.repeat_penalty, sampler.repeat_last_n = options.repeat_last_n;
  sampler.presence_penalty = options.presence_penalty, sampler.frequency_penalty = options.frequency_penalty;
  sampler.temperature = options.temperature;
  sampler.top_k = options.top_k, sampler.top_p = options.top_p, sampler.min_p = options.min_p;
  sampler.typical = options.typical;
  sampler.seed = options.seed;
  out.max_tokens = options.max_tokens;
  out.stop = options.stop;
  out.on_text = on_text;
  out.interrupt = options.interrupt;
  return out;
}

std::vector<text::Message> messages_of(std::span<const Message> messages) {
  std::vector<text::Message> out;
  for (const Message& message : messages) out.push_back({message.role, message.content});
  return out;
}

}  // namespace

std::string_view version() { return runtime::version(); }

struct Model::Impl {
  Impl(models::Model model, const runtime::EngineOptions& options)
      : engine(std::move(model), options), account(models::account(engine.spec())), tokens{engine.make_cache(), {}} {}

  Generated run(std::span<const int32_t> prompt, const GenerateOptions& options, const OnText& on_text) {
    runtime::Generation generation(engine, std::move(tokens), prompt, options_of(options, on_text));
    runtime::run(engine, generation, tokens);
    const runtime::GenerationStatistics& statistics = generation.statistics();
    return {generation.text(),
            {generation.generated().begin(), generation.generated().end()},
            std::string(runtime::name(generation.finish())),
            statistics.prompt_tokens,
            statistics.reused_tokens,
            statistics.prompt_seconds,
            statistics.decode_seconds};
  }

  const text::ChatTemplate& chat_template() const {
    if (!engine.model().chat_template)
      base::fail(base::ErrorKind::unsupported, engine.model().name, "has no chat template");
    return *engine.model().chat_template;
  }

  runtime::Engine engine;
  models::Account account;
  runtime::TokenCache tokens;
};

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

Model Model::load(const std::filesystem::path& path, const LoadOptions& options) {
  return translated([&] {
    models::OpenOptions open;
    open.experts_per_token = options.experts_per_token;
    open.router_sample = options.router_temperature;
    runtime::EngineOptions engine;
    engine.threads = options.threads;
    engine.context = options.context;
    engine.precision = options.exact ? ops::Precision::f32 : ops::Precision::fast;
    return Model(std::make_unique<Impl>(models::open_model(path, open), engine));
  });
}

Generated Model::generate(std::string_view prompt, const GenerateOptions& options, const OnText& on_text) {
  return translated([&] { return impl_->run(impl_->engine.tokenizer().encode(prompt), options, on_text); });
}

Generated Model::generate(std::span<const int32_t> prompt, const GenerateOptions& options, const OnText& on_text) {
  return translated([&] { return impl_->run(prompt, options, on_text); });
}

Generated Model::chat(std::span<const Message> messages, const GenerateOptions& options, const OnText& on_text) {
  return translated([&] {
    const std::string prompt = impl_->chat_template().render(messages_of(messages), true);
    return impl_->run(impl_->engine.tokenizer().encode(prompt, false), options, on_text);
  });
}

bool Model::has_chat_template() const { return impl_->engine.model().chat_template.has_value(); }

std::string Model::apply_chat_template(std::span<const Message> messages, bool add_generation_prompt) const {
  return translated([&] { return impl_->chat_template().render(messages_of(messages), add_generation_prompt); });
}

std::vector<int32_t> Model::tokenize(std::string_view text, bool add_special) const {
  return translated([&] { return impl_->engine.tokenizer().encode(text, add_special); });
}

std::string Model::detokenize(std::span<const int32_t> ids) const {
  return translated([&] {
    impl_->engine.check_ids(ids);
    return impl_->engine.tokenizer().decode(ids);
  });
}

int64_t Model::count_tokens(std::string_view text) const { return static_cast<int64_t>(tokenize(text).size()); }

const std::string& Model::name() const { return impl_->engine.model().name; }
int64_t Model::context_size() const { return impl_->engine.context_size(); }
int64_t Model::vocabulary_size() const { return impl_->engine.spec().vocabulary; }
int64_t Model::parameters() const { return impl_->account.total(); }
int64_t Model::active_parameters() const { return impl_->account.total_active(); }
const std::vector<std::string>& Model::warnings() const { return impl_->engine.model().warnings; }

}  // namespace coterie
