#include "text/constraint.h"

#include "text/bridge_call.h"
#include "text/tokenizer_state.h"

namespace coterie::text {

namespace {

const CoterieVocabulary& vocabulary(const Tokenizer& tokenizer) {
  const TokenizerState& state = TokenizerState::of(tokenizer);
  std::call_once(state.vocabulary_once, [&] {
    const std::vector<uint32_t> ends(state.end.begin(), state.end.end());
    CoterieVocabulary* made = nullptr;
    BridgeBytes error;
    check_bridge(coterie_vocabulary_new(state.bridge.get(), ends.data(), ends.size(), &made, error.out()), state.where,
                 error);
    state.vocabulary.reset(made);
  });
  return *state.vocabulary;
}

const uint32_t* as_ids(std::span<const TokenId> ids) { return reinterpret_cast<const uint32_t*>(ids.data()); }

}  // namespace

void Constraint::Deleter::operator()(CoterieConstraint* constraint) const { coterie_constraint_free(constraint); }

Constraint::Constraint(const Tokenizer& tokenizer, Kind kind, std::string_view text, std::string_view where)
    : where_(where) {
  CoterieConstraint* made = nullptr;
  BridgeBytes error;
  check_bridge(
      coterie_constraint_new(&vocabulary(tokenizer), static_cast<int32_t>(kind), slice(text), &made, error.out()),
      where, error);
  bridge_.reset(made);
}

Constraint::Constraint(const Constraint& other) : where_(other.where_) {
  CoterieConstraint* made = nullptr;
  BridgeBytes error;
  check_bridge(coterie_constraint_clone(other.bridge_.get(), &made, error.out()), where_, error);
  bridge_.reset(made);
}

Constraint Constraint::json_schema(const Tokenizer& tokenizer, std::string_view schema, std::string_view where) {
  return {tokenizer, Kind::json_schema, schema, where};
}

Constraint Constraint::json_object(const Tokenizer& tokenizer) {
  return {tokenizer, Kind::json_schema, R"({"type": "object"})", "JSON object"};
}

Constraint Constraint::regex(const Tokenizer& tokenizer, std::string_view expression, std::string_view where) {
  return {tokenizer, Kind::regex, expression, where};
}

Constraint Constraint::lark(const Tokenizer& tokenizer, std::string_view grammar, std::string_view where) {
  return {tokenizer, Kind::lark, grammar, where};
}

std::string Constraint::embeddable_schema(const Tokenizer& tokenizer, std::string_view schema, std::string_view where) {
  BridgeBytes prepared, error;
  check_bridge(coterie_schema_prepare(&vocabulary(tokenizer), slice(schema), prepared.out(), error.out()), where,
               error);
  return std::string(prepared.view());
}

void Constraint::mask(std::span<uint32_t> bits) {
  BridgeBytes error;
  check_bridge(coterie_constraint_mask(bridge_.get(), bits.data(), bits.size(), error.out()), where_, error);
}

void Constraint::accept(std::span<const TokenId> ids) {
  BridgeBytes error;
  check_bridge(coterie_constraint_accept(bridge_.get(), as_ids(ids), ids.size(), error.out()), where_, error);
}

std::vector<TokenId> Constraint::forced() {
  struct Ids {
    CoterieIds ids{};
    ~Ids() { coterie_ids_free(ids); }
  } found;
  BridgeBytes error;
  check_bridge(coterie_constraint_forced(bridge_.get(), &found.ids, error.out()), where_, error);
  return std::vector<TokenId>(found.ids.data, found.ids.data + found.ids.size);
}

void Constraint::rollback(size_t n) {
  BridgeBytes error;
  check_bridge(coterie_constraint_rollback(bridge_.get(), n, error.out()), where_, error);
}

bool Constraint::complete() {
  int32_t complete = 0, finished = 0;
  BridgeBytes error;
  check_bridge(coterie_constraint_state(bridge_.get(), &complete, &finished, error.out()), where_, error);
  return complete != 0;
}

bool Constraint::finished() {
  int32_t complete = 0, finished = 0;
  BridgeBytes error;
  check_bridge(coterie_constraint_state(bridge_.get(), &complete, &finished, error.out()), where_, error);
  return finished != 0;
}

}  // namespace coterie::text
