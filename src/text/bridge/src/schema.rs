//! JSON schemas: what they may not say, and where in one an error is.

use llguidance::api::TopLevelGrammar;
use llguidance::Matcher;
use serde_json::{Map, Value};

use crate::constraint;
use crate::vocabulary::Vocabulary;

/// White space between the parts of a document: bounded, since a model may go on with it for ever.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,80}";

/// Finding the place of an error compiles parts of the schema; so many at most.
const MOST_TRIALS: usize = 400;

/// Words that narrow what fits. Others are notes to people, as JSON Schema has it, unless they look like one of these.
#[rustfmt::skip]
const KEYWORDS: &[&str] = &[
    "$ref", "$defs", "definitions", "type", "enum", "const", "anyOf", "oneOf", "allOf", "not", "if", "then", "else",
    "properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties",
    "maxProperties", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "items",
    "prefixItems", "additionalItems", "unevaluatedItems", "contains", "minContains", "maxContains", "minItems",
    "maxItems", "uniqueItems", "minLength", "maxLength", "pattern", "format", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "title", "description", "default", "examples",
    "example", "deprecated",
];

/// A sentence about a place in the schema, or about nothing that can be placed.
struct Fault {
    pointer: String,
    message: String,
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The schemas directly within one, each with the way to it.
fn children(schema: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    let Some(schema) = schema.as_object() else { return found };
    for (key, value) in schema {
        match (key.as_str(), value) {
            (
                "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas",
                Value::Object(parts),
            ) => found.extend(parts.iter().map(|(name, part)| (format!("/{key}/{}", escaped(name)), part))),
            ("anyOf" | "oneOf" | "allOf" | "prefixItems" | "items", Value::Array(parts)) => {
                found.extend(parts.iter().enumerate().map(|(index, part)| (format!("/{key}/{index}"), part)))
            }
            (
                "items"
                | "additionalItems"
                | "additionalProperties"
                | "not"
                | "if"
                | "then"
                | "else"
                | "contains"
                | "propertyNames"
                | "unevaluatedProperties"
                | "unevaluatedItems",
                Value::Object(_),
            ) => found.push((format!("/{key}"), value)),
            _ => {}
        }
    }
    found
}

fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}

/// What would be passed over in silence though somebody meant it.
fn passed_over(schema: &Value, pointer: &str) -> Option<Fault> {
    let fault = |message: String| Some(Fault { pointer: pointer.to_string(), message });
    match schema {
        Value::Bool(_) => return None,
        Value::Object(_) => {}
        _ => return fault("a schema must be an object, true or false".to_string()),
    }
    for (key, value) in schema.as_object()? {
        if KEYWORDS.contains(&key.as_str()) || key.starts_with("x-") && key != "x-guidance" {
            continue;
        }
        if key == "x-guidance" {
            return fault("\"x-guidance\" is not taken: it would loosen the schema".to_string());
        }
        if key == "nullable" && value == &Value::Bool(true) {
            return fault("\"nullable\" is not JSON Schema: list \"null\" among the types".to_string());
        }
        let near = |known: &&&str| {
            let slips = if known.len() > 4 { 2 } else { 1 };
            known.eq_ignore_ascii_case(key) || (known.len() >= 4 && key.len() >= 3 && edits(known, key) <= slips)
        };
        if let Some(known) = KEYWORDS.iter().find(near) {
            return fault(format!("{key:?} is not a keyword of JSON Schema: did you mean {known:?}?"));
        }
    }
    children(schema).into_iter().find_map(|(way, part)| passed_over(part, &(pointer.to_string() + &way)))
}

/// The definition that a schema refers to and adds nothing to.
fn target<'a>(root: &'a Value, option: &Value) -> Option<&'a Value> {
    let notes = ["$ref", "title", "description"];
    let only_refers = option.as_object()?.keys().all(|key| notes.contains(&key.as_str()));
    let pointer = option["$ref"].as_str()?.strip_prefix('#')?;
    root.pointer(pointer).filter(|target| only_refers && target.is_object())
}

/// Puts definitions in the place of references under oneOf: whether its options exclude each other is found out from
/// what they say themselves.
fn resolve_options(root: &Value, schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Array(options)) = object.get_mut("oneOf") {
                for option in options {
                    if let Some(target) = target(root, option) {
                        *option = target.clone();
                    }
                }
            }
            object.values_mut().for_each(|part| resolve_options(root, part));
        }
        Value::Array(parts) => parts.iter_mut().for_each(|part| resolve_options(root, part)),
        _ => {}
    }
}

fn grammar(root: &Value) -> TopLevelGrammar {
    let mut schema = match root {
        Value::Bool(true) => Value::Object(Map::new()),
        other => other.clone(),
    };
    resolve_options(root, &mut schema);
    if let Some(object) = schema.as_object_mut() {
        object.insert("x-guidance".to_string(), serde_json::json!({ "whitespace_pattern": WHITE_SPACE }));
    }
    TopLevelGrammar::from_json_schema(schema)
}

/// llguidance's sentences in the words of a user of schemas.
fn in_words(message: &str) -> String {
    if let Some(keys) = message.strip_prefix("Unimplemented keys: ") {
        return format!("these keywords cannot be kept and are not supported: {keys}");
    }
    if message.starts_with("oneOf constraints are not supported") {
        return "oneOf is supported where its options exclude each other (by their types, or by a required property \
                with different constants); use anyOf"
            .to_string();
    }
    message.replace("Unsatisfiable schema: ", "nothing fits it: ")
}

struct Search<'a> {
    vocabulary: &'a Vocabulary,
    root: &'a Value,
    trials: usize,
    followed: Vec<&'a str>,
}

impl<'a> Search<'a> {
    /// What is wrong with a part, looked at alone, with the definitions of the whole.
    fn fault(&mut self, part: &Value) -> Option<String> {
        if self.trials == 0 {
            return None;
        }
        self.trials -= 1;
        let mut part = part.clone();
        for name in ["$defs", "definitions", "$schema"] {
            if let (Some(object), Some(value)) = (part.as_object_mut(), self.root.get(name)) {
                object.entry(name).or_insert_with(|| value.clone());
            }
        }
        constraint::compile(self.vocabulary, grammar(&part)).err().map(|error| in_words(&error))
    }

    /// Goes down to the smallest part that is wrong by itself.
    fn descend(&mut self, schema: &'a Value, pointer: String, message: String) -> Fault {
        let mut parts = children(schema);
        parts.retain(|(way, _)| !way.starts_with("/$defs/") && !way.starts_with("/definitions/"));
        let mut wrong = Vec::new();
        for (way, part) in parts {
            if let Some(found) = self.fault(part) {
                wrong.push((pointer.clone() + &way, part, found));
            }
        }
        if let Some(target) = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
            if let (false, Some(part)) = (self.followed.contains(&target), self.root.pointer(target)) {
                self.followed.push(target);
                if let Some(found) = self.fault(part) {
                    wrong.push((target.to_string(), part, found));
                }
            }
        }
        // A part may be wrong and not matter (an option among others); one whose fault is that of the whole matters.
        let same = wrong.iter().position(|(_, _, found)| message.contains(found.as_str()));
        match wrong.into_iter().nth(same.unwrap_or(0)) {
            Some((pointer, part, found)) => self.descend(part, pointer, found),
            None => Fault { pointer, message },
        }
    }
}

/// The schema as text with what `grammar` adds to it, to be put after %json in a Lark grammar; refuses as `compile`.
pub fn prepare(vocabulary: &Vocabulary, text: &str) -> Result<String, String> {
    compile(vocabulary, text)?;
    let root: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let prepared = grammar(&root).grammars.into_iter().next().and_then(|grammar| grammar.json_schema);
    Ok(prepared.unwrap_or(root).to_string())
}

/// A schema's grammar, or a sentence that says what is wrong and where (a JSON pointer).
pub fn compile(vocabulary: &Vocabulary, text: &str) -> Result<Matcher, String> {
    let root: Value = serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
    let placed = |fault: Fault| match fault.pointer.as_str() {
        "" => format!("at the top: {}", fault.message),
        pointer => format!("at {pointer}: {}", fault.message),
    };
    if let Some(fault) = passed_over(&root, "") {
        return Err(placed(fault));
    }
    if root == Value::Bool(false) {
        return Err("at the top: the schema is false, which nothing fits".to_string());
    }
    constraint::compile(vocabulary, grammar(&root)).map_err(|message| {
        let message = in_words(&message);
        let mut search = Search { vocabulary, root: &root, trials: MOST_TRIALS, followed: Vec::new() };
        placed(search.descend(&root, String::new(), message))
    })
}
