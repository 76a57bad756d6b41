#include "layers/observer.h"

#include <algorithm>

namespace coterie::layers {

void Observers::routed(const Routed& router) {
  for (Observer* one : all_) one->routed(router);
}
void Observers::mixer_routed(const Routed& router) {
  for (Observer* one : all_) one->mixer_routed(router);
}
void Observers::mixed(const Mixture& mixture) {
  for (Observer* one : all_) one->mixed(mixture);
}
void Observers::ffn_input(int64_t layer, tensor::ConstMatrix x) {
  for (Observer* one : all_) one->ffn_input(layer, x);
}
void Observers::mixer_output(int64_t layer, tensor::ConstMatrix y) {
  for (Observer* one : all_) one->mixer_output(layer, y);
}
void Observers::ffn_output(int64_t layer, tensor::ConstMatrix y) {
  for (Observer* one : all_) one->ffn_output(layer, y);
}
void Observers::block(int64_t layer, tensor::ConstMatrix x) {
  for (Observer* one : all_) one->block(layer, x);
}
void Observers::logits(tensor::ConstMatrix logits) {
  for (Observer* one : all_) one->logits(logits);
}
bool Observers::wants_products() const {
  return std::any_of(all_.begin(), all_.end(), [](const Observer* one) { return one->wants_products(); });
}
void Observers::product(const Product& product) {
  for (Observer* one : all_)
    if (one->wants_products()) one->product(product);
}
bool Observers::wants_expert_outputs() const {
  return std::any_of(all_.begin(), all_.end(), [](const Observer* one) { return one->wants_expert_outputs(); });
}
void Observers::expert_outputs(int64_t layer, const ops::RoutingPlan& plan, tensor::ConstMatrix out) {
  for (Observer* one : all_)
    if (one->wants_expert_outputs()) one->expert_outputs(layer, plan, out);
}

}  // namespace coterie::layers
