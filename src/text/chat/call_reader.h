#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "text/chat/syntax.h"
#include "text/chat/tools.h"

// Readers of calls, each for one way to write them, fed character by character.
namespace coterie::text {

/// White space of JSON.
inline bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

/// Where a reader puts what it reads.
class CallSink {
 public:
  virtual ~CallSink() = default;
  virtual void begin(const std::string& name, const std::string& id) = 0;  // an empty id: the syntax has none
  virtual void arguments(std::string_view text) = 0;
  virtual void end() = 0;
};

class CallReader {
 public:
  enum class State {
    more,
    done,      // with this character
    not_mine,  // what came since the beginning is not a call; nothing has been put into the sink
  };
  virtual ~CallReader() = default;
  virtual State push(char c, CallSink& sink) = 0;
};

/// How the arguments of each function are written, by their names.
using TagValues = std::map<std::string, std::map<std::string, TagValue>>;

/// For one call (Body::list: for all of them), after the mark that begins it; the mark that ends it is read too.
std::unique_ptr<CallReader> make_call_reader(const CallForm& form, const TagValues& values);

}  // namespace coterie::text
