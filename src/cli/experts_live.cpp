#include "cli/experts_live.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "cli/terminal.h"

namespace coterie::cli {

namespace {

constexpr int64_t kText = 16;  // columns of a token

// Shown, not obeyed; white space is seen.
std::string shown(std::string_view text, int64_t most = kText) {
  std::string out;
  int64_t characters = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte & 0xC0) != 0x80 && ++characters > most) break;
    if (c == '\n')
      out += "⏎";
    else if (c == '\t')
      out += "⇥";
    else if (byte < 0x20 || byte == 0x7f)
      out += "·";
    else
      out += c;
  }
  characters = std::min(characters, most);
  return out + std::string(static_cast<size_t>(most - characters), ' ');
}

}  // namespace

LiveExperts::LiveExperts(runtime::Engine& engine, int64_t columns, std::function<std::string(int32_t)> text_of)
    : gated_(runtime::ensemble_parts(engine)),
      weights_(std::make_shared<std::vector<float>>()),
      listens_(runtime::listen_to_gate(engine,
                                       [weights = weights_](tensor::ConstMatrix rows) {
                                         const float* last = rows.row(rows.rows - 1);
                                         weights->assign(last, last + rows.cols);
                                       })),
      text_of_(std::move(text_of)),
      top_(engine.spec().blocks.size(), -1) {
  const models::ModelSpec& spec = engine.spec();
  for (const std::string& name : gated_.names)
    name_width_ = std::max(name_width_, std::min<size_t>(name.size(), kText));
  if (gated_.count() > 0) columns -= static_cast<int64_t>(name_width_) + 8;
  std::vector<int64_t> all;
  int64_t most = 0;
  for (size_t i = 0; i < spec.blocks.size(); ++i)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&spec.blocks[i].ffn))
      all.push_back(static_cast<int64_t>(i)), most = std::max({most, moe->router.experts - 1, static_cast<int64_t>(i)});
  digits_ = std::ssize(std::to_string(most));
  if (all.empty()) return;  // an ensemble of dense models
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
  std::string text = fmt::format("{:<{}} │", layers_.empty() ? "token" : "token / layer", kText);
  if (gated_.count() > 0) text += fmt::format(" {:<{}} │", "model, weight", std::max<size_t>(name_width_ + 6, 13));
  int64_t whose = 0;
  for (const int64_t layer : layers_) {
    const auto [model, number] = gated_.place(layer);
    if (std::exchange(whose, model) != model) text += " │";
    text += fmt::format(" {:>{}}", number, digits_);
  }
  return styled(text, Style::dim) + "\n";
}

std::string LiveExperts::who(std::span<const float> weights) const {
  const size_t width = std::max<size_t>(name_width_ + 6, 13);
  if (weights.empty()) return fmt::format(" {:<{}} │", "·", width);
  const auto most = static_cast<size_t>(std::max_element(weights.begin(), weights.end()) - weights.begin());
  const auto room = static_cast<int64_t>(width) - 6;
  return fmt::format(" {} {:>3.0f} % │", shown(gated_.names[most], room), 100 * static_cast<double>(weights[most]));
}

std::string LiveExperts::line(std::string_view text, bool read, std::span<const float> weights) const {
  std::string out = shown(text) + " │";
  if (gated_.count() > 0) out += who(weights);
  int64_t whose = 0;
  for (const int64_t layer : layers_) {
    if (const int64_t model = gated_.place(layer).first; std::exchange(whose, model) != model) out += " │";
    const int64_t top = read ? top_[static_cast<size_t>(layer)] : -1;
    out += ' ';
    const std::string cell = top < 0 ? fmt::format("{:>{}}", "·", digits_) : fmt::format("{:>{}}", top, digits_);
    out += top < 0 ? cell : on_colour(cell, top);
  }
  return out + "\n";
}

std::string LiveExperts::next(int32_t id) {
  // What was read before the first token is the prompt: its last token's line begins the strip.
  std::string text = token_.empty() ? header() + line("(prompt's last)", true, {})
                                    : line(text_of_(token_.front()), true, token_weights_);
  token_ = {id}, token_weights_ = *weights_;
  return text;
}

std::string LiveExperts::last() {
  std::string text = token_.empty() ? "" : line(text_of_(token_.front()), false, token_weights_);
  token_.clear();
  return text;
}

}  // namespace coterie::cli
