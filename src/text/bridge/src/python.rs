//! What Python prints: repr of floats and json.dumps, which transformers' `tojson` filter is.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, Value};

pub fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// float.__repr__: the shortest digits that read back, in scientific form from 1e16 up and below 1e-4.
pub fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_string();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_string();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        return format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    let text = format!("{value}");
    if text.contains('.') {
        text
    } else {
        text + ".0"
    }
}

/// str.__repr__.
fn string_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = quote.to_string();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => out.push_str(&match c as u32 {
                code @ 0..=0xff => format!("\\x{code:02x}"),
                code @ 0x100..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
    out
}

/// str.isprintable, but for code points that no version of Unicode has assigned.
fn is_printable(c: char) -> bool {
    use unicode_categories::UnicodeCategories;
    c == ' ' || !(c.is_other() || c.is_separator())
}

/// repr(): what Python prints for a value inside a container.
pub fn repr(value: &Value) -> String {
    repr_to(value, 0)
}

fn repr_to(value: &Value, depth: usize) -> String {
    if let Some(text) = value.as_str() {
        return string_repr(text);
    }
    if depth > MAX_DEPTH {
        return "...".to_string();
    }
    let list = |open: &str, close: &str| -> Option<String> {
        let items: Vec<String> = value.try_iter().ok()?.map(|item| repr_to(&item, depth + 1)).collect();
        Some(open.to_string() + &items.join(", ") + close)
    };
    let text = match value.kind() {
        ValueKind::Undefined => Some("Undefined".to_string()),
        ValueKind::Number if !value.is_integer() => f64::try_from(value.clone()).ok().map(float_repr),
        ValueKind::Seq if value.is_tuple() => list("(", if value.len() == Some(1) { ",)" } else { ")" }),
        ValueKind::Seq => list("[", "]"),
        ValueKind::Iterable if value.len().is_some() => list("[", "]"),
        ValueKind::Map => value.try_iter().ok().map(|keys| {
            let entry = |key: Value| {
                let item = value.get_item(&key).unwrap_or_default();
                repr_to(&key, depth + 1) + ": " + &repr_to(&item, depth + 1)
            };
            "{".to_string() + &keys.map(entry).collect::<Vec<_>>().join(", ") + "}"
        }),
        _ => None,
    };
    text.unwrap_or_else(|| value.to_string())
}

/// str(): what `{{ value }}` prints.
pub fn to_text(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::String => value.to_string(),
        _ => repr(value),
    }
}

/// What json.loads makes of the text: the order of keys stays, 1 is not 1.0.
pub fn value_of(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::from(value),
            (_, Some(value)) => Value::from(value),
            _ => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(value_of).collect::<Vec<_>>()),
        Json::Object(object) => Value::from_pairs(object.iter().map(|(key, item)| (key.as_str(), value_of(item)))),
    }
}

/// The arguments of json.dumps that transformers' filter passes on.
struct Dumps {
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

// Recursion is over data nested by a template; JSON from outside is bounded by its parser.
const MAX_DEPTH: usize = 400;

impl Dumps {
    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
                c if self.ensure_ascii && !(' '..='~').contains(&c) && c != '\u{7f}' => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }

    fn scalar(&self, value: &Value) -> Option<String> {
        match value.kind() {
            ValueKind::None => Some("null".to_string()),
            ValueKind::Bool => Some(if value.is_true() { "true" } else { "false" }.to_string()),
            ValueKind::Number if value.is_integer() => Some(value.to_string()),
            ValueKind::Number => {
                let number = f64::try_from(value.clone()).ok()?;
                Some(match number {
                    n if n.is_nan() => "NaN".to_string(),
                    f64::INFINITY => "Infinity".to_string(),
                    f64::NEG_INFINITY => "-Infinity".to_string(),
                    n => float_repr(n),
                })
            }
            _ => None,
        }
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid("tojson: nested too deeply"));
        }
        if let Some(text) = value.as_str() {
            self.string(text, out);
            return Ok(());
        }
        if let Some(text) = self.scalar(value) {
            out.push_str(&text);
            return Ok(());
        }
        match value.kind() {
            ValueKind::Map => self.map(value, depth, out),
            ValueKind::Seq | ValueKind::Iterable => {
                out.push('[');
                let mut count = 0;
                for item in value.try_iter()? {
                    if count > 0 {
                        out.push_str(&self.item);
                    }
                    self.line(depth + 1, out);
                    self.write(&item, depth + 1, out)?;
                    count += 1;
                }
                if count > 0 {
                    self.line(depth, out);
                }
                out.push(']');
                Ok(())
            }
            ValueKind::Undefined => Err(invalid("Object of type Undefined is not JSON serializable")),
            kind => Err(invalid(format!("Object of type {kind} is not JSON serializable"))),
        }
    }

    fn map(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        let mut keys: Vec<(String, Value)> = Vec::new();
        for key in value.try_iter()? {
            let text = match key.as_str() {
                Some(text) => text.to_string(),
                None => self.scalar(&key).ok_or_else(|| {
                    invalid(format!("keys must be str, int, float, bool or None, not {}", key.kind()))
                })?,
            };
            keys.push((text, key));
        }
        if self.sort_keys {
            keys.sort_by(|a, b| a.0.cmp(&b.0));
        }
        out.push('{');
        for (index, (text, key)) in keys.iter().enumerate() {
            if index > 0 {
                out.push_str(&self.item);
            }
            self.line(depth + 1, out);
            self.string(text, out);
            out.push_str(&self.key);
            self.write(&value.get_item(key)?, depth + 1, out)?;
        }
        if !keys.is_empty() {
            self.line(depth, out);
        }
        out.push('}');
        Ok(())
    }
}

/// tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False), as transformers defines it:
/// json.dumps without escaping of HTML.
pub fn tojson(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    const NAMES: [&str; 4] = ["ensure_ascii", "indent", "separators", "sort_keys"];
    if args.len() > NAMES.len() {
        return Err(invalid("tojson: too many arguments"));
    }
    let option = |index: usize| -> Result<Value, Error> {
        match args.get(index) {
            Some(value) => Ok(value.clone()),
            None => Ok(kwargs.get::<Option<Value>>(NAMES[index])?.unwrap_or_else(|| Value::from(()))),
        }
    };
    let indent = option(1)?;
    let indent = match indent.kind() {
        ValueKind::None | ValueKind::Undefined => None,
        ValueKind::String => Some(indent.to_string()),
        _ => Some(" ".repeat(i64::try_from(indent)?.clamp(0, 1000) as usize)),
    };
    let separators = option(2)?;
    let (item, key) = if separators.is_none() || separators.is_undefined() {
        (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string())
    } else {
        let parts: Vec<Value> = separators.try_iter()?.collect();
        match &parts[..] {
            [item, key] => (item.to_string(), key.to_string()),
            _ => return Err(invalid("tojson: separators must be two strings")),
        }
    };
    let dumps = Dumps { ensure_ascii: option(0)?.is_true(), indent, item, key, sort_keys: option(3)?.is_true() };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    dumps.write(value, 0, &mut out)?;
    Ok(Value::from(out))
}
