#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
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
  int64_t dropped_messages = 0;  // the oldest, to make room in the context
  GenerationStatistics statistics;
};

/// A dialogue by a model's chat template. The cache is kept between turns: a turn evaluates what is new. When the
/// context is full the oldest turns are dropped, never the system message.
class Conversation {
 public:
  /// `system` may be empty. `engine` must outlive the conversation.
  Conversation(Engine& engine, text::ChatTemplate chat_template, std::string system);

  /// Adds what the user says and answers it. When the answer fails, the conversation is as before; when it is
  /// interrupted, its text so far is kept as the answer. Throws bad_input when the message alone is too long.
  /// `on_dropped` hears before the answer begins how many of the oldest messages had to go.
  Reply reply(std::string_view user, GenerationOptions options,
              const std::function<void(int64_t messages)>& on_dropped = {});

  /// Lets another model with the same tokenizer answer from now on. Each has a cache of its own, which holds the
  /// conversation as far as it has read it. `engine` must outlive the conversation.
  void answer_with(Engine& engine);

  /// Forgets all but the system message.
  void reset();
  const std::vector<text::Message>& messages() const { return messages_; }

  /// As JSON {"format", "model", "messages": [{"role", "content"}]}, written atomically.
  void save(const std::filesystem::path& path) const;
  /// Replaces the messages, the system message included. Throws bad_input, and changes nothing, when the file is not a
  /// conversation.
  void load(const std::filesystem::path& path);

 private:
  std::vector<TokenId> prompt_ids(const std::string& rendered) const;
  int64_t drop_until_it_fits(int64_t answer, std::string& rendered, std::vector<TokenId>& ids);

  Engine* engine_;
  text::ChatTemplate template_;
  std::vector<text::Message> messages_;
  std::map<const Engine*, TokenCache> caches_;
  // The text whose ids are known, from the last prompt to the end of its answer. The next prompt normally begins with
  // it; only what follows is encoded then, so that the ids the model itself chose are kept even where its text would be
  // encoded otherwise.
  std::string known_text_;
  std::vector<TokenId> known_ids_;
};

}  // namespace coterie::runtime
