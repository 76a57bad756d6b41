#include "text/chat/call_reader.h"

#include <algorithm>
#include <vector>

#include "base/json.h"
#include "text/chat/json_scanner.h"

namespace coterie::text {

namespace {

std::string trimmed(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return std::string(text);
}

/// {"name": "f", "arguments": {…}}, or a list of them. The parts may come in any order; arguments are handed on at once
/// where the name is known.
class ObjectReader final : public CallReader {
 public:
  explicit ObjectReader(const CallForm& form) : list_(form.body == CallForm::Body::list), end_(form.end) {}

  State push(char c, CallSink& sink) override {
    switch (at_) {
      case At::list:
        if (is_space(c)) return State::more;
        at_ = At::object;
        return c == '[' ? State::more : State::not_mine;
      case At::object:
        if (is_space(c) || (seen_ && c == ',')) return State::more;
        if (c == ']' && seen_) return after_all();
        if (c != '{') return wrong();
        at_ = At::key;
        key_.clear(), name_.clear(), id_.clear(), held_.clear();
        begun_ = false;
        return State::more;
      case At::key:
        if (is_space(c) || c == ',') return State::more;
        if (c == '}') return after_object(sink);
        if (c != '"') return wrong();
        at_ = At::in_key;
        return State::more;
      case At::in_key:
        if (c == '"')
          at_ = At::colon;
        else
          key_ += c;
        return State::more;
      case At::colon:
        if (is_space(c)) return State::more;
        if (c != ':') return wrong();
        at_ = At::before_value;
        return State::more;
      case At::before_value:
        if (is_space(c)) return State::more;
        at_ = At::value;
        scanner_ = {};
        value_.clear();
        [[fallthrough]];
      case At::value: return value(c, sink);
      case At::end:
        if (is_space(c) && matched_ == 0) return State::more;
        if (c != end_[matched_]) return wrong();
        return ++matched_ == end_.size() ? State::done : State::more;
      case At::lost: return State::more;
    }
    return State::more;
  }

 private:
  enum class At { list, object, key, in_key, colon, before_value, value, end, lost };

  State value(char c, CallSink& sink) {
    const JsonScanner::State state = scanner_.push(c);
    if (state != JsonScanner::State::ended_before) {
      if (is_arguments())
        arguments(std::string_view(&c, 1), sink);
      else
        value_ += c;
    }
    if (state == JsonScanner::State::more) return State::more;
    at_ = At::key;
    if (key_ == "name" || key_ == "id") {
      const base::Json text = base::Json::parse(value_, nullptr, false);
      if (!text.is_string()) return wrong();
      (key_ == "name" ? name_ : id_) = text.get<std::string>();
      if (key_ == "name") begin(sink);
    }
    key_.clear();
    return state == JsonScanner::State::ended_before ? push(c, sink) : State::more;
  }
  bool is_arguments() const { return key_ == "arguments" || key_ == "parameters"; }
  void begin(CallSink& sink) {
    sink.begin(name_, id_);
    begun_ = seen_ = true;
    if (!held_.empty()) sink.arguments(held_);
    any_ = !held_.empty();
    held_.clear();
  }
  void arguments(std::string_view text, CallSink& sink) {
    if (!begun_) {
      held_ += text;
      return;
    }
    any_ = true;
    sink.arguments(text);
  }
  State after_object(CallSink& sink) {
    if (!begun_) return wrong();
    if (!any_) sink.arguments("{}");
    sink.end();
    if (list_) {
      at_ = At::object;
      return State::more;
    }
    return after_all();
  }
  State after_all() {
    at_ = At::end;
    return end_.empty() ? State::done : State::more;
  }
  /// After a call has begun there is no backward pass.
  State wrong() {
    if (!seen_) return State::not_mine;
    at_ = At::lost;
    return State::more;
  }

  bool list_;
  std::string_view end_;
  At at_ = list_ ? At::list : At::object;
  JsonScanner scanner_;
  std::string key_, value_, name_, id_, held_;
  size_t matched_ = 0;
  bool begun_ = false, seen_ = false, any_ = false;
};

/// Text up to one of some marks.
class Until {
 public:
  explicit Until(std::vector<std::string_view> marks) : marks_(std::move(marks)) {
    std::erase(marks_, std::string_view());
  }
  /// Which mark has been reached, or -1. `out` gets what is certain not to be part of one.
  int push(char c, std::string& out) {
    held_ += c;
    while (!held_.empty()) {
      for (size_t i = 0; i < marks_.size(); ++i)
        if (held_ == marks_[i]) {
          held_.clear();
          return static_cast<int>(i);
        }
      if (std::any_of(marks_.begin(), marks_.end(), [&](std::string_view mark) { return mark.starts_with(held_); }))
        return -1;
      out += held_.front();
      held_.erase(0, 1);
    }
    return -1;
  }

 private:
  std::vector<std::string_view> marks_;
  std::string held_;
};

/// f, a mark, {…}.
class NamedReader final : public CallReader {
 public:
  explicit NamedReader(const CallForm& form) : form_(form), name_until_({form.id_mark, form.after_name}) {
    id_first_ = !form.id_mark.empty();
  }

  State push(char c, CallSink& sink) override {
    switch (at_) {
      case At::name: {
        const int mark = name_until_.push(c, name_);
        // Names are short: what goes on is not a call.
        if (mark < 0) return name_.size() > 300 ? State::not_mine : State::more;
        if (id_first_ && mark == 0) {
          at_ = At::id;
          return State::more;
        }
        return begin(sink);
      }
      case At::id: return id_until_.push(c, id_) < 0 ? State::more : begin(sink);
      case At::before_arguments:
        if (is_space(c)) return State::more;
        at_ = At::arguments;
        [[fallthrough]];
      case At::arguments: {
        const JsonScanner::State state = scanner_.push(c);
        if (state != JsonScanner::State::ended_before) sink.arguments(std::string_view(&c, 1));
        if (state == JsonScanner::State::more) return State::more;
        sink.end();
        at_ = At::end;
        return form_.end.empty() ? State::done : State::more;
      }
      case At::end: {
        std::string skipped;
        return end_until_.push(c, skipped) < 0 ? State::more : State::done;
      }
    }
    return State::more;
  }

 private:
  enum class At { name, id, before_arguments, arguments, end };

  State begin(CallSink& sink) {
    std::string_view name = name_;
    // DeepSeek's "function", with the mark after it.
    if (!form_.before_name.empty() && name.starts_with(form_.before_name)) name.remove_prefix(form_.before_name.size());
    if (trimmed(name).empty()) return State::not_mine;
    sink.begin(trimmed(name), trimmed(id_));
    at_ = At::before_arguments;
    return State::more;
  }

  const CallForm& form_;
  At at_ = At::name;
  Until name_until_, id_until_{{form_.after_name}}, end_until_{{form_.end}};
  std::string name_, id_;
  bool id_first_;
  JsonScanner scanner_;
};

/// f, and each argument between marks of its own. They become a JSON object.
class TagReader final : public CallReader {
 public:
  TagReader(const CallForm& form, const TagValues& values)
      : form_(form),
        values_(values),
        name_(form.name_open.empty() ? std::vector<std::string_view>{"\n", form.key_open, form.end}
                                     : std::vector<std::string_view>{form.name_close}),
        after_({form.key_open, form.close.empty() ? form.end : form.close}),
        key_({form.key_close}),
        open_({form.value_open}),
        value_({form.value_close}),
        end_({form.end}) {}

  State push(char c, CallSink& sink) override {
    std::string skipped;
    switch (at_) {
      case At::before_name:
        if (form_.name_open.empty()) {
          if (is_space(c)) return State::more;
          at_ = At::name;
          return push(c, sink);
        }
        if (is_space(c) && matched_ == 0) return State::more;
        if (c != form_.name_open[matched_]) return State::not_mine;
        if (++matched_ == form_.name_open.size()) at_ = At::name;
        return State::more;
      case At::name: {
        const int mark = name_.push(c, name_text_);
        if (mark < 0) return name_text_.size() > 300 ? State::not_mine : State::more;
        name_text_ = trimmed(name_text_);
        if (name_text_.empty()) return State::not_mine;
        sink.begin(name_text_, "");
        if (form_.name_open.empty() && mark == 1) return begin_key();
        if (form_.name_open.empty() && mark == 2) return close(sink);
        at_ = At::after;
        return State::more;
      }
      case At::after: {
        const int mark = after_.push(c, skipped);
        if (mark < 0) return State::more;
        return mark == 0 ? begin_key() : close(sink);
      }
      case At::key:
        if (key_.push(c, key_text_) < 0) return State::more;
        begin_value(sink);
        return State::more;
      case At::open:
        if (open_.push(c, skipped) >= 0) at_ = At::value;
        return State::more;
      case At::value: return value(c, sink);
      case At::end: return end_.push(c, skipped) < 0 ? State::more : State::done;
    }
    return State::more;
  }

 private:
  enum class At { before_name, name, after, key, open, value, end };

  State begin_key() {
    at_ = At::key;
    key_text_.clear();
    return State::more;
  }
  void begin_value(CallSink& sink) {
    sink.arguments(first_ ? "{" : ", ");
    first_ = false;
    sink.arguments(base::Json(trimmed(key_text_)).dump(-1, ' ', false, base::Json::error_handler_t::replace) + ": ");
    const auto tool = values_.find(name_text_);
    kind_ = TagValue{true, {}, {}, {}};  // what no schema speaks of is text
    if (tool != values_.end())
      if (const auto known = tool->second.find(trimmed(key_text_)); known != tool->second.end()) kind_ = known->second;
    text_.clear();
    quoted_ = false;
    size_ = 0;
    at_ = form_.value_open.empty() ? At::value : At::open;
  }

  State value(char c, CallSink& sink) {
    std::string out;
    const bool over = value_.push(c, out) >= 0;
    for (const char one : out) {
      // Where values stand on lines of their own the break before them is not theirs.
      if (form_.value_open.empty() && size_++ == 0 && one == '\n') continue;
      text_ += one;
    }
    if (over) {
      end_value(sink);
      at_ = At::after;
    } else if (kind_.text) {
      release(sink);
    }
    return State::more;
  }
  /// The break before the closing mark is not part of a value either: it is held back, and so is what may be a literal.
  void release(CallSink& sink) {
    if (!quoted_) {
      const auto may_be = [&](const std::string& literal) {
        return literal.starts_with(text_) || text_ == literal + "\n";
      };
      if (text_.empty() || std::any_of(kind_.literals.begin(), kind_.literals.end(), may_be)) return;
      sink.arguments("\"");
      quoted_ = true;
    }
    size_t certain = text_.size();
    if (form_.value_open.empty() && text_.back() == '\n') --certain;
    // A character is escaped as a whole.
    while (certain > 0 && certain < text_.size() && (static_cast<unsigned char>(text_[certain]) & 0xC0) == 0x80)
      --certain;
    size_t whole = certain;
    for (size_t back = 1; back <= 3 && back <= certain; ++back) {
      const auto byte = static_cast<unsigned char>(text_[certain - back]);
      if ((byte & 0xC0) == 0x80) continue;
      const size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
      if (length > back) whole = certain - back;
      break;
    }
    if (whole == 0) return;
    const std::string json =
        base::Json(text_.substr(0, whole)).dump(-1, ' ', false, base::Json::error_handler_t::replace);
    sink.arguments(std::string_view(json).substr(1, json.size() - 2));
    text_.erase(0, whole);
  }
  void end_value(CallSink& sink) {
    if (form_.value_open.empty() && text_.ends_with('\n')) text_.pop_back();
    if (!kind_.text) return sink.arguments(text_.empty() ? "null" : trimmed(text_));
    if (!quoted_ && std::find(kind_.literals.begin(), kind_.literals.end(), text_) != kind_.literals.end())
      return sink.arguments(text_);
    const std::string json = base::Json(text_).dump(-1, ' ', false, base::Json::error_handler_t::replace);
    sink.arguments(quoted_ ? std::string_view(json).substr(1) : std::string_view(json));
  }
  State close(CallSink& sink) {
    sink.arguments(first_ ? "{}" : "}");
    sink.end();
    if (form_.close.empty()) return State::done;  // by the mark that ends the call itself
    at_ = At::end;
    return State::more;
  }

  const CallForm& form_;
  const TagValues& values_;
  At at_ = At::before_name;
  Until name_, after_, key_, open_, value_, end_;
  std::string name_text_, key_text_, text_;
  TagValue kind_;
  size_t matched_ = 0, size_ = 0;
  bool first_ = true, quoted_ = false;
};

}  // namespace

std::unique_ptr<CallReader> make_call_reader(const CallForm& form, const TagValues& values) {
  switch (form.body) {
    case CallForm::Body::object:
    case CallForm::Body::list: return std::make_unique<ObjectReader>(form);
    case CallForm::Body::named: return std::make_unique<NamedReader>(form);
    case CallForm::Body::tags: return std::make_unique<TagReader>(form, values);
    case CallForm::Body::channels: break;
  }
  return nullptr;
}

}  // namespace coterie::text
