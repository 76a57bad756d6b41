#include "cli/experts_live.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "cli/terminal.h"

namespace coterie::cli {

namespace {

constexpr int64_t kText = 16;  // columns of a token

// Shown, not obeyed; white space is seen.
std::string shown(std::string_view text) {
  std::string out;
  int64_t characters = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte & 0xC0) != 0x80 && ++characters > kText) break;
    if (c == '\n')
      out += "⏎";
    else if (c == '\t')
      out += "⇥";
    else if (byte < 0x20 || byte == 0x7f)
      out += "·";
    else
      out += c;
  }
  characters = std::min(characters, kText);
  return out + std::string(static_cast<size_t>(kText - characters), ' ');
}

}  // namespace

LiveExperts::LiveExperts(const models::ModelSpec& spec, int64_t columns, std::function<std::string(int32_t)> text_of)
    : text_of_(std::move(text_of)), top_(spec.blocks.size(), -1) {
  std::vector<int64_t> all;
  int64_t most = 0;
  for (size_t i = 0; i < spec.blocks.size(); ++i)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&spec.blocks[i].ffn))
      all.push_back(static_cast<int64_t>(i)), most = std::max({most, moe->router.experts - 1, static_cast<int64_t>(i)});
  digits_ = std::ssize(std::to_string(most));
  const int64_t room = std::clamp<int64_t>((columns - kText - 3) / (digits_ + 1), 1, std::ssize(all));
  for (int64_t i = 0; i < room; ++i) layers_.push_back(all[static_cast<size_t>(i * std::ssize(all) / room)]);
}

void LiveExperts::routed(const layers::Routed& router) {
  const ops::RoutingPlan& plan = router.plan;
  const auto t = static_cast<size_t>(plan.tokens - 1);
  int64_t& top = top_[static_cast<size_t>(router.layer)];
  top = -1;
  if (plan.token_offset[t] == plan.token_offset[t + 1]) return;
  const int32_t slot = plan.token_slot[static_cast<size_t>(plan.token_offset[t])];
  top = std::upper_bound(plan.expert_offset.begin(), plan.expert_offset.end(), slot) - plan.expert_offset.begin() - 1;
}

void LiveExperts::mixed(const layers::Mixture&) {
  base::fail(base::ErrorKind::unsupported, "--experts",
             "a Soft MoE gives every expert a share of every token: =live has no "
             "choice to show, --experts alone has the shares");
}

std::string LiveExperts::header() const {
  std::string text = fmt::format("{:<{}} │", "token / layer", kText);
  for (const int64_t layer : layers_) text += fmt::format(" {:>{}}", layer, digits_);
  return styled(text, Style::dim) + "\n";
}

std::string LiveExperts::line(std::string_view text, bool read) const {
  std::string out = shown(text) + " │";
  for (const int64_t layer : layers_) {
    const int64_t top = read ? top_[static_cast<size_t>(layer)] : -1;
    out += ' ';
    const std::string cell = top < 0 ? fmt::format("{:>{}}", "·", digits_) : fmt::format("{:>{}}", top, digits_);
    out += top < 0 ? cell : on_colour(cell, top);
  }
  return out + "\n";
}

std::string LiveExperts::next(int32_t id) {
  // What was read before the first token is the prompt: its last token's line begins the strip.
  std::string text = token_.empty() ? header() + line("(prompt's last)", true) : line(text_of_(token_.front()), true);
  token_ = {id};
  return text;
}

std::string LiveExperts::last() {
  std::string text = token_.empty() ? "" : line(text_of_(token_.front()), false);
  token_.clear();
  return text;
}

}  // namespace coterie::cli
