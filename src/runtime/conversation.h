#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/engine.h"
#include "runtime/generation.h"
#include "text/tokenizer.h"

namespace coterie::runtime {

/// What one turn came to.
struct Reply {
  std::string text;
  Finish finish = Finish::not_yet;
  int64_t dropped_messages = 0;  // the oldest, that the model reads no more, to make room in its context
  GenerationStatistics statistics;
};

/// A dialogue by a model's chat template. The cache is kept between turns: a turn evaluates what is new. When the
/// context of the model that answers is full it reads the oldest turns no more, but always the system message; the
/// messages stay, for models with room for more.
class Conversation {
 public:
  /// `system` may be empty. `engine` must outlive the conversation.
  Conversation(Engine& engine, text::ChatTemplate chat_template, std::string system);

  /// Adds what the user says and answers it. When the answer fails, the conversation is as before; when it is
  /// interrupted, its text so far is kept as the answer. Throws bad_input when the message alone is too long.
  /// `on_dropped` hears before the answer begins how many of the oldest messages the model reads no more.
  /// `observer` looks on while the model reads and answers.
  Reply reply(std::string_view user, GenerationOptions options,
              const std::function<void(int64_t messages)>& on_dropped = {}, layers::Observer* observer = nullptr);
  /// The same in the place of the last thing that the user said and of what followed it. When it fails the
  /// conversation is as before. Throws bad_input when the user has said nothing yet.
  Reply reply_instead(std::string_view user, GenerationOptions options,
                      const std::function<void(int64_t messages)>& on_dropped = {},
                      layers::Observer* observer = nullptr);
  /// What the user said last; nothing before the first message.
  std::optional<std::string> last_user_message() const;

  /// Lets another model with the same tokenizer answer from now on, prompted with the template that it first came
  /// with. Each has a cache of its own, which holds the conversation as far as it has read it, and drops turns by its
  /// own context. `engine` must outlive the conversation.
  void answer_with(Engine& engine, const text::ChatTemplate& chat_template);

  /// Replaces the system message, or takes it away when `text` is empty; the other messages stay.
  void set_system(std::string text);
  /// Empty when there is none.
  std::string system() const { return has_system() ? messages_.front().content : std::string(); }
  /// Tokens of all messages that the model which answers still reads, with the template around them.
  int64_t tokens() const;

  /// Forgets all but the system message.
  void reset();
  const std::vector<text::Message>& messages() const { return messages_; }

  /// As JSON {"format", "model", "messages": [{"role", "content"}]}, written atomically.
  void save(const std::filesystem::path& path) const;
  /// Replaces the messages, the system message included. Throws bad_input, and changes nothing, when the file is not a
  /// conversation.
  void load(const std::filesystem::path& path);

 private:
  /// A model that answers, and what it has read.
  struct Speaker {
    Engine* engine;
    text::ChatTemplate chat_template;
    TokenCache cache;
    size_t skipped = 0;  // messages after the system's that it reads no more
    // The text whose ids are known, from the last prompt to the end of its answer. The next prompt normally begins with
    // it; only what follows is encoded then, so that the ids the model itself chose are kept even where its text would
    // be encoded otherwise.
    std::string known_text = {};
    std::vector<TokenId> known_ids = {};
  };
  static std::vector<TokenId> prompt_ids(const Speaker& speaker, const std::string& rendered);
  /// The messages as one prompt for the speaker, who skips turns until it fits. Returns how many messages that took.
  int64_t make_prompt(Speaker& speaker, int64_t answer, std::string& rendered, std::vector<TokenId>& ids) const;
  std::vector<text::Message> read_by(const Speaker& speaker) const;
  bool has_system() const { return !messages_.empty() && messages_.front().role == "system"; }

  std::vector<text::Message> messages_;
  std::map<const Engine*, Speaker> speakers_;
  Speaker* speaker_ = nullptr;  // who answers
};

}  // namespace coterie::runtime
