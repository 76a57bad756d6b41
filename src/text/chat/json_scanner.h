#pragma once

#include <cstdint>

namespace coterie::text {

/// Finds the end of a JSON value, character by character. It follows brackets and strings alone: whether what is
/// between them is JSON is not its business.
class JsonScanner {
 public:
  enum class State { more, ends_here, ended_before };

  /// `ended_before`: the character does not belong to the value (after a number or a word).
  State push(char c) {
    if (in_string_) {
      if (escaped_)
        escaped_ = false;
      else if (c == '\\')
        escaped_ = true;
      else if (c == '"')
        in_string_ = false;
      return !in_string_ && depth_ == 0 ? State::ends_here : State::more;
    }
    switch (c) {
      case '"':
        if (word_) return State::ended_before;
        in_string_ = true;
        return State::more;
      case '{':
      case '[': ++depth_; return State::more;
      case '}':
      case ']': return depth_ == 0 ? State::ended_before : --depth_ == 0 ? State::ends_here : State::more;
      default: break;
    }
    if (depth_ > 0) return State::more;
    if (c == ',' || c == ':' || c == ' ' || c == '\n' || c == '\r' || c == '\t' || c == '<' || c == '`')
      return State::ended_before;
    word_ = true;
    return State::more;
  }

 private:
  int64_t depth_ = 0;
  bool in_string_ = false, escaped_ = false, word_ = false;
};

}  // namespace coterie::text
