#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

struct CoterieConstraint;

namespace coterie::text {

/// What a grammar lets through, token by token: which tokens may come next, after those that have come. By llguidance,
/// behind the C ABI of src/text/bridge.
///
/// A constraint belongs to one sequence and is used by one thread at a time; copies are independent of each other, so a
/// compiled one serves as the pattern of others. It fails closed: what cannot be kept is refused when it is made, and
/// after an error every call throws.
class Constraint {
 public:
  /// Texts that are JSON and fit the schema (the text of a JSON document; drafts 4 to 2020-12). Properties come in the
  /// order in which the schema has them; white space between the parts is free, 80 characters at a time at most.
  /// Throws bad_input naming `where` and the place in the schema (a JSON pointer) for what cannot be kept exactly, a
  /// misspelt keyword, a reference to another document, a schema that nothing fits.
  static Constraint json_schema(const Tokenizer& tokenizer, std::string_view schema, std::string_view where);
  /// Any JSON object.
  static Constraint json_object(const Tokenizer& tokenizer);
  /// Texts that match as a whole (Rust's regex syntax, without look-around and back references).
  static Constraint regex(const Tokenizer& tokenizer, std::string_view expression, std::string_view where);
  /// Texts of the rule `start` of a Lark grammar, in llguidance's dialect: %json {…} embeds a schema, <name> and
  /// <[id]> are special tokens.
  static Constraint lark(const Tokenizer& tokenizer, std::string_view grammar, std::string_view where);

  /// A JSON schema in the form in which it can stand after %json in a Lark grammar; refuses as json_schema() does.
  static std::string embeddable_schema(const Tokenizer& tokenizer, std::string_view schema, std::string_view where);

  Constraint(const Constraint& other);
  Constraint(Constraint&&) noexcept = default;
  Constraint& operator=(const Constraint& other) { return *this = Constraint(other); }
  Constraint& operator=(Constraint&&) noexcept = default;

  /// Sets bit id % 32 of bits[id / 32] for the tokens that may come next and clears all others. `bits` has at least
  /// ceil(V / 32) words, V the model's vocabulary: ids that the tokenizer does not have are never allowed. End tokens
  /// are among them exactly where the text may end. No bit is set where the text must end and there is no end token.
  void mask(std::span<uint32_t> bits);
  /// The token has come. Throws bad_input for one that may not.
  void accept(TokenId id) { accept(std::span<const TokenId>(&id, 1)); }
  void accept(std::span<const TokenId> ids);
  /// The tokens that alone can come next, in the order in which they must, as the tokenizer itself would cut the text;
  /// may be none. mask() allows the first of them alone, so taking them at once changes no text.
  std::vector<TokenId> forced();
  /// Takes the last n accepted tokens back.
  void rollback(size_t n);
  /// Whether the text may end here.
  bool complete();
  /// Whether it must: nothing but an end token can follow.
  bool finished();

 private:
  enum class Kind { json_schema, regex, lark };
  struct Deleter {
    void operator()(CoterieConstraint* constraint) const;
  };
  Constraint(const Tokenizer& tokenizer, Kind kind, std::string_view text, std::string_view where);

  std::unique_ptr<CoterieConstraint, Deleter> bridge_;
  std::string where_;
};

}  // namespace coterie::text
