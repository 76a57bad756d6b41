#include <algorithm>
#include <utility>

#include "text/tokenizer.h"

namespace coterie::text {

namespace {

constexpr std::string_view kReplacement =
    "\xEF\xBF\xBD";  // U+FFFD, what a decoder writes for bytes that are not character

// A character of UTF-8 has at most four bytes, so at most three bytes can be waiting for one that completes them. Each
// shows as one U+FFFD (byte fallback) or all as one (byte level).
constexpr int kMaxWaiting = 3;

// Only garbage leaves so many tokens without a whole character at their end; it is then printed as it is, so that the
// cost of a token stays bounded.
constexpr size_t kMaxPending = 64;

// More context than the decoders look at; they look at the first token of a text and at runs of bytes.
constexpr size_t kPromptContext = 16;

size_t whole_size(std::string_view text) {
  for (int i = 0; i < kMaxWaiting && text.ends_with(kReplacement); ++i) text.remove_suffix(kReplacement.size());
  return text.size();
}

}  // namespace

StreamDecoder::StreamDecoder(Tokenizer tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}

bool StreamDecoder::is_silent(TokenId id) const {
  return (skip_special_ && tokenizer_.is_special(id)) || !tokenizer_.token(id);
}

void StreamDecoder::prime(std::span<const TokenId> ids) {
  finish();
  for (const TokenId id : ids.last(std::min(ids.size(), kPromptContext)))
    if (!is_silent(id)) ids_.push_back(id);
  prefix_ = 0;
  read_ = ids_.size();
}

std::string StreamDecoder::pending() const {
  const std::span<const TokenId> ids(ids_);
  const std::string context = tokenizer_.decode(ids.subspan(prefix_, read_ - prefix_), skip_special_);
  std::string text = tokenizer_.decode(ids.subspan(prefix_), skip_special_);
  // Byte fallback decodes a run of bytes as a whole: a bad byte after the context's last one changes what the context
  // was. It has been printed, so the new bytes stand for themselves.
  if (!text.starts_with(context)) return tokenizer_.decode(ids.subspan(read_), skip_special_);
  return text.substr(context.size());
}

std::string StreamDecoder::push(TokenId id) {
  if (id >= 0 && is_silent(id)) return {};
  ids_.push_back(id);
  std::string text;
  try {
    text = pending();
  } catch (...) {
    ids_.pop_back();
    throw;
  }
  const bool garbage = ids_.size() - read_ > kMaxPending;
  const size_t whole = garbage ? text.size() : whole_size(text);
  if (whole < text.size()) {
    if (whole <= printed_) return {};
    const size_t from = std::exchange(printed_, whole);
    return text.substr(from, whole - from);
  }
  text.erase(0, std::min(printed_, text.size()));
  // An empty text may be the lone space that a decoder strips from the start: it has to stay in the window.
  if (!text.empty() || printed_ > 0) {
    ids_.erase(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(read_));
    prefix_ = 0;
    read_ = ids_.size();
    printed_ = 0;
  }
  return text;
}

std::string StreamDecoder::finish() {
  std::string text = read_ < ids_.size() ? pending() : std::string();
  text.erase(0, std::min(printed_, text.size()));
  ids_.clear();
  prefix_ = read_ = printed_ = 0;
  return text;
}

}  // namespace coterie::text
