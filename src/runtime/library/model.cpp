#include "base/error.h"
#include "families/ensemble/gate.h"
#include "models/account.h"
#include "runtime/library/impl.h"
#include "runtime/version.h"

namespace coterie {

using library::translated;

std::string_view version() noexcept { return runtime::version(); }

std::string_view name(Finish finish) noexcept { return runtime::name(static_cast<runtime::Finish>(finish)); }
static_assert(static_cast<int>(Finish::failed) == static_cast<int>(runtime::Finish::failed) &&
              static_cast<int>(Finish::max_tokens) == static_cast<int>(runtime::Finish::max_tokens));

namespace {

families::OpenOptions open_options(const LoadOptions& options) {
  families::OpenOptions open;
  open.strict = options.strict;
  open.experts_per_token = options.experts_per_token;
  open.router_sample = options.router_temperature;
  open.adapter = options.adapter;
  open.adapter_factor = options.adapter_factor;
  return open;
}

runtime::EngineOptions engine_options(const LoadOptions& options) {
  runtime::EngineOptions engine;
  engine.threads = options.threads;
  engine.context = options.context;
  engine.step_tokens = options.step_tokens;
  engine.cache_bytes = options.cache_bytes;
  engine.memory = options.memory;
  engine.precision = options.exact ? ops::Precision::f32 : ops::Precision::fast;
  switch (options.cache_type) {
    case CacheType::automatic: break;
    case CacheType::f32: engine.cache_type = tensor::DType::f32; break;
    case CacheType::f16: engine.cache_type = tensor::DType::f16; break;
    case CacheType::bf16: engine.cache_type = tensor::DType::bf16; break;
    case CacheType::q8_0: engine.cache_type = tensor::DType::q8_0; break;
  }
  return engine;
}

runtime::Engines open(const std::filesystem::path& path, const LoadOptions& options) {
  if (options.threads < 0)
    base::fail(base::ErrorKind::bad_input, "threads", "is {}, expected at least 0", options.threads);
  if (!families::is_ensemble(path))
    return runtime::Engines(families::open_model(path, open_options(options)), engine_options(options));
  if (!options.adapter.empty())
    throw base::Error(base::ErrorKind::bad_input, "adapter", "is for one model, and this is an ensemble of several",
                      "coterie merge-adapter writes a model with it, which an ensemble can take");
  return runtime::Engines(path, open_options(options), engine_options(options));
}

std::vector<text::Message> messages_of(std::span<const Message> messages) {
  std::vector<text::Message> out;
  for (const Message& message : messages) out.push_back({message.role, message.content});
  return out;
}

}  // namespace

Model::Impl::Impl(runtime::Engines of) : engines(std::move(of)) {
  for (const auto& engine : engines.all())
    for (const std::string& warning : engine->model().warnings) warnings.push_back(warning);
  for (const families::Model* model : engines.models()) {
    const models::Account account = models::account(model->decoder->spec());
    names.push_back(model->name);
    parameters += account.total();
    // Where models answer one by one, a token meets one of them.
    active_parameters = engines.all().size() > 1 ? std::max(active_parameters, account.total_active())
                                                 : active_parameters + account.total_active();
  }
}

Model::Impl::Turn::Turn(Impl& model) : model_(model) {
  if (model.computing_.load() == std::this_thread::get_id())
    throw base::Error(base::ErrorKind::bad_input, "callback", "computes with the model that is calling it",
                      "note what is to be done, and do it when the call has returned");
  model.mutex_.lock();
  model.computing_ = std::this_thread::get_id();
}

Model::Impl::Turn::~Turn() {
  model_.computing_ = std::thread::id();
  model_.mutex_.unlock();
}

Model::Model(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

Model Model::load(const std::filesystem::path& path, const LoadOptions& options) {
  return translated([&] { return Model(std::make_shared<Impl>(open(path, options))); });
}

Session Model::session() const { return Session(*this); }

Generated Model::generate(std::string_view prompt, const GenerateOptions& options, const OnText& on_text) const {
  return session().generate(prompt, options, on_text);
}
Generated Model::generate(std::span<const int32_t> prompt, const GenerateOptions& options,
                          const OnText& on_text) const {
  return session().generate(prompt, options, on_text);
}
Generated Model::chat(std::span<const Message> messages, const GenerateOptions& options, const OnText& on_text) const {
  return session().chat(messages, options, on_text);
}
Generated Model::chat(std::initializer_list<Message> messages, const GenerateOptions& options,
                      const OnText& on_text) const {
  return session().chat(messages, options, on_text);
}

std::vector<int32_t> Model::tokenize(std::string_view text, bool add_special) const {
  return translated([&] { return impl_->engines.front().tokenizer().encode(text, add_special); });
}

std::string Model::detokenize(std::span<const int32_t> ids) const {
  return translated([&] {
    impl_->engines.front().check_ids(ids);
    return impl_->engines.front().tokenizer().decode(ids);
  });
}

int64_t Model::count_tokens(std::string_view text) const { return std::ssize(tokenize(text)); }

bool Model::has_chat_template() const { return impl_->engines.chat_template(impl_->engines.front()) != nullptr; }

std::string Model::apply_chat_template(std::span<const Message> messages, bool add_generation_prompt) const {
  return translated([&] {
    const text::ChatTemplate* const chat = impl_->engines.chat_template(impl_->engines.front());
    if (!chat)
      throw base::Error(base::ErrorKind::unsupported, impl_->engines.name(), "has no chat template",
                        "generate() continues plain text");
    return chat->render(messages_of(messages), add_generation_prompt);
  });
}
std::string Model::apply_chat_template(std::initializer_list<Message> messages, bool add_generation_prompt) const {
  return apply_chat_template(std::span(messages.begin(), messages.size()), add_generation_prompt);
}

const std::string& Model::name() const { return impl_->engines.name(); }
int64_t Model::context_size() const { return impl_->engines.context_size(); }
int64_t Model::vocabulary_size() const { return impl_->engines.front().spec().vocabulary; }
int64_t Model::width() const { return impl_->engines.front().spec().width; }
int64_t Model::layers() const {
  // An ensemble counts the layers of all its models.
  int64_t layers = 0;
  for (const families::Model* model : impl_->engines.models()) layers += std::ssize(model->decoder->spec().blocks);
  return layers;
}
int64_t Model::parameters() const { return impl_->parameters; }
int64_t Model::active_parameters() const { return impl_->active_parameters; }
const std::vector<int32_t>& Model::end_tokens() const {
  return translated([&]() -> const std::vector<int32_t>& { return impl_->engines.front().tokenizer().end_tokens(); });
}
const std::vector<std::string>& Model::models() const { return impl_->names; }
const std::vector<std::string>& Model::warnings() const { return impl_->warnings; }

}  // namespace coterie
