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
    : messages_(opening(std::move(system))) {
  answer_with(engine, chat_template);
}

void Conversation::answer_with(Engine& engine, const text::ChatTemplate& chat_template) {
  auto at = speakers_.find(&engine);
  if (at == speakers_.end())
    at = speakers_.emplace(&engine, Speaker{&engine, chat_template, TokenCache{engine.make_cache(), {}}}).first;
  speaker_ = &at->second;
}

std::vector<TokenId> Conversation::prompt_ids(const Speaker& speaker, const std::string& rendered) {
  const text::Tokenizer& tokenizer = speaker.engine->tokenizer();
  const std::string& known = speaker.known_text;
  // The template writes the special tokens out, a BOS included.
  if (known.empty() || !rendered.starts_with(known)) return tokenizer.encode(rendered, false);
  std::vector<TokenId> ids = speaker.known_ids;
  const std::vector<TokenId> added = tokenizer.encode(std::string_view(rendered).substr(known.size()), false);
  ids.insert(ids.end(), added.begin(), added.end());
  return ids;
}

std::vector<text::Message> Conversation::read_by(const Speaker& speaker) const {
  const auto first = messages_.begin() + (has_system() ? 1 : 0);
  std::vector<text::Message> read(messages_.begin(), first);
  read.insert(read.end(), first + static_cast<std::ptrdiff_t>(speaker.skipped), messages_.end());
  return read;
}

int64_t Conversation::tokens() const {
  if (messages_.empty()) return 0;
  return std::ssize(prompt_ids(*speaker_, speaker_->chat_template.render(read_by(*speaker_), false)));
}

std::optional<std::string> Conversation::last_user_message() const {
  const auto last = std::find_if(messages_.rbegin(), messages_.rend(), [](const auto& m) { return m.role == "user"; });
  if (last == messages_.rend()) return std::nullopt;
  return last->content;
}

void Conversation::set_system(std::string text) {
  if (has_system()) messages_.erase(messages_.begin());
  if (!text.empty()) messages_.insert(messages_.begin(), {"system", std::move(text)});
}

Reply Conversation::reply_instead(std::string_view user, GenerationOptions options,
                                  const std::function<void(int64_t messages)>& on_dropped, layers::Observer* observer) {
  const std::vector<text::Message> before = messages_;
  const size_t skipped = speaker_->skipped;
  const auto last = std::find_if(messages_.rbegin(), messages_.rend(), [](const auto& m) { return m.role == "user"; });
  if (last == messages_.rend()) base::fail(base::ErrorKind::bad_input, "", "there is no message to answer anew yet");
  messages_.erase(last.base() - 1, messages_.end());
  // Nobody can have dropped more than is left: the last turn is always read.
  for (auto& [engine, speaker] : speakers_)
    speaker.skipped = std::min(speaker.skipped, messages_.size() - (has_system() ? 1 : 0));
  try {
    return reply(user, std::move(options), on_dropped, observer);
  } catch (...) {
    messages_ = before;
    speaker_->skipped = skipped;
    throw;
  }
}

int64_t Conversation::make_prompt(Speaker& speaker, int64_t answer, std::string& rendered,
                                  std::vector<TokenId>& ids) const {
  // Room for an answer worth starting; a limit the user gave counts in full where it can.
  const int64_t context = speaker.engine->context_size();
  const int64_t room = answer >= 0 ? std::min(answer, context / 2) : std::min<int64_t>(context / 4, 512);
  const auto first = messages_.begin() + (has_system() ? 1 : 0);
  int64_t dropped = 0;
  for (;;) {
    const auto oldest = first + static_cast<std::ptrdiff_t>(speaker.skipped);
    rendered = speaker.chat_template.render(read_by(speaker), true);
    ids = prompt_ids(speaker, rendered);
    if (static_cast<int64_t>(ids.size()) + room <= context) return dropped;
    if (messages_.end() - oldest <= 1) {
      if (static_cast<int64_t>(ids.size()) < context) return dropped;
      throw base::Error(base::ErrorKind::bad_input, "message",
                        fmt::format("has {} tokens with the template around it, which do not fit in a context of {}",
                                    ids.size(), context),
                        "shorten it, or start with a larger `context`");
    }
    // A turn is a message of the user and what follows up to the next one.
    auto next = oldest + 1;
    while (next + 1 != messages_.end() && next->role != "user") ++next;
    dropped += next - oldest;
    speaker.skipped += static_cast<size_t>(next - oldest);
  }
}

Reply Conversation::reply(std::string_view user, GenerationOptions options,
                          const std::function<void(int64_t messages)>& on_dropped, layers::Observer* observer) {
  const size_t before = messages_.size(), skipped = speaker_->skipped;
  messages_.push_back({"user", std::string(user)});
  Speaker& speaker = *speaker_;
  try {
    std::string rendered;
    std::vector<TokenId> ids;
    Reply reply;
    reply.dropped_messages = make_prompt(speaker, options.max_tokens, rendered, ids);
    if (reply.dropped_messages > 0 && on_dropped) on_dropped(reply.dropped_messages);
    Generation generation(*speaker.engine, std::move(speaker.cache), ids, std::move(options));
    run(*speaker.engine, generation, speaker.cache, observer);
    reply.text = generation.text(), reply.finish = generation.finish(), reply.statistics = generation.statistics();
    messages_.push_back({"assistant", reply.text});

    speaker.known_text = rendered + reply.text;
    speaker.known_ids = std::move(ids);
    std::span<const TokenId> answer = generation.generated();
    // The template writes the end of the turn itself. After a stop string ids and text differ: encode anew.
    if (reply.finish == Finish::end_token) answer = answer.first(answer.size() - 1);
    if (reply.finish == Finish::stop_string) speaker.known_text.clear();
    speaker.known_ids.insert(speaker.known_ids.end(), answer.begin(), answer.end());
    return reply;
  } catch (...) {
    messages_.resize(before);
    speaker.skipped = skipped;
    throw;
  }
}

void Conversation::reset() {
  messages_.resize(has_system() ? 1 : 0);
  for (auto& [engine, speaker] : speakers_) speaker.skipped = 0, speaker.known_text.clear(), speaker.known_ids.clear();
}

void Conversation::save(const std::filesystem::path& path) const {
  base::Json messages = base::Json::array();
  for (const text::Message& message : messages_)
    messages.push_back({{"role", message.role}, {"content", message.content}});
  const base::Json file = {{"format", kFormat}, {"model", speaker_->engine->model().name}, {"messages", messages}};
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
