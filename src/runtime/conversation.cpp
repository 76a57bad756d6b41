#include "runtime/conversation.h"

#include <algorithm>
#include <utility>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/json.h"

namespace coterie::runtime {

namespace {

constexpr std::string_view kFormat = "coterie conversation 1";

std::vector<text::Message> opening(std::string system) {
  if (system.empty()) return {};
  return {{"system", std::move(system)}};
}

}  // namespace

Conversation::Conversation(Engine& engine, text::ChatTemplate chat_template, std::string system)
    : template_(std::move(chat_template)), messages_(opening(std::move(system))) {
  answer_with(engine);
}

void Conversation::answer_with(Engine& engine) {
  engine_ = &engine;
  if (!caches_.contains(engine_)) caches_.emplace(engine_, TokenCache{engine.make_cache(), {}});
}

std::vector<TokenId> Conversation::prompt_ids(const std::string& rendered) const {
  const text::Tokenizer& tokenizer = engine_->tokenizer();
  // The template writes the special tokens out, a BOS included.
  if (known_text_.empty() || !rendered.starts_with(known_text_)) return tokenizer.encode(rendered, false);
  std::vector<TokenId> ids = known_ids_;
  const std::vector<TokenId> added = tokenizer.encode(std::string_view(rendered).substr(known_text_.size()), false);
  ids.insert(ids.end(), added.begin(), added.end());
  return ids;
}

int64_t Conversation::drop_until_it_fits(int64_t answer, std::string& rendered, std::vector<TokenId>& ids) {
  // Room for an answer worth starting; a limit the user gave counts in full where it can.
  const int64_t context = engine_->context_size();
  const int64_t room = answer >= 0 ? std::min(answer, context / 2) : std::min<int64_t>(context / 4, 512);
  int64_t dropped = 0;
  for (;;) {
    rendered = template_.render(messages_, true);
    ids = prompt_ids(rendered);
    if (static_cast<int64_t>(ids.size()) + room <= context) return dropped;
    const bool system = messages_.front().role == "system";
    const auto oldest = messages_.begin() + (system ? 1 : 0);
    if (messages_.end() - oldest <= 1) {
      if (static_cast<int64_t>(ids.size()) < context) return dropped;
      throw base::Error(base::ErrorKind::bad_input, "message",
                        fmt::format("has {} tokens with the template around it, which do not fit in a context of {}",
                                    ids.size(), context),
                        "shorten it, or start with a larger --context");
    }
    // A turn is a message of the user and what follows up to the next one.
    auto next = oldest + 1;
    while (next + 1 != messages_.end() && next->role != "user") ++next;
    dropped += next - oldest;
    messages_.erase(oldest, next);
  }
}

Reply Conversation::reply(std::string_view user, GenerationOptions options,
                          const std::function<void(int64_t messages)>& on_dropped) {
  const std::vector<text::Message> before = messages_;
  messages_.push_back({"user", std::string(user)});
  try {
    std::string rendered;
    std::vector<TokenId> ids;
    Reply reply;
    reply.dropped_messages = drop_until_it_fits(options.max_tokens, rendered, ids);
    if (reply.dropped_messages > 0 && on_dropped) on_dropped(reply.dropped_messages);
    Generation generation(*engine_, caches_.at(engine_), ids, std::move(options));
    run(*engine_, generation);
    reply.text = generation.text(), reply.finish = generation.finish(), reply.statistics = generation.statistics();
    messages_.push_back({"assistant", reply.text});

    known_text_ = rendered + reply.text;
    known_ids_ = std::move(ids);
    std::span<const TokenId> answer = generation.generated();
    // The template writes the end of the turn itself. After a stop string ids and text differ: encode anew.
    if (reply.finish == Finish::end_token) answer = answer.first(answer.size() - 1);
    if (reply.finish == Finish::stop_string) known_text_.clear();
    known_ids_.insert(known_ids_.end(), answer.begin(), answer.end());
    return reply;
  } catch (...) {
    messages_ = before;
    throw;
  }
}

void Conversation::reset() {
  const bool system = !messages_.empty() && messages_.front().role == "system";
  messages_.resize(system ? 1 : 0);
  known_text_.clear(), known_ids_.clear();
}

void Conversation::save(const std::filesystem::path& path) const {
  base::Json messages = base::Json::array();
  for (const text::Message& message : messages_)
    messages.push_back({{"role", message.role}, {"content", message.content}});
  const base::Json file = {{"format", kFormat}, {"model", engine_->model().name}, {"messages", messages}};
  base::AtomicFile out(path);
  out.write(file.dump(2, ' ', false, base::Json::error_handler_t::replace) + "\n");
  out.commit();
}

void Conversation::load(const std::filesystem::path& path) {
  const base::Json json = base::read_json(path);
  base::JsonReader file(json, path.string());
  if (const std::string format = file.string("format"); format != kFormat)
    base::fail(base::ErrorKind::bad_input, path.string(), "is of format \"{}\", expected \"{}\"", format, kFormat);
  const base::Json* list = file.value("messages");
  if (!list || !list->is_array())
    base::fail(base::ErrorKind::bad_input, path.string(), "\"messages\" is missing or not a list");
  std::vector<text::Message> messages;
  for (const base::Json& item : *list) {
    base::JsonReader message(item, fmt::format("{}: messages[{}]", path.string(), messages.size()));
    messages.push_back({message.string("role"), message.string("content")});
  }
  reset();
  messages_ = std::move(messages);
}

}  // namespace coterie::runtime
