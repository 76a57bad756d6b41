//! Methods of Python's str, list and dict that templates call and minijinja does not have.

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use crate::filters::Arguments;
use crate::python::invalid;

/// str.isspace: Unicode's white space and the four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

pub fn strip<'a>(text: &'a str, chars: Option<&str>, start: bool, end: bool) -> &'a str {
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if start { text.trim_start_matches(goes) } else { text };
    if end {
        text.trim_end_matches(goes)
    } else {
        text
    }
}

/// str.splitlines.
pub fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    const BREAKS: &[char] = &['\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(BREAKS) {
        let length =
            if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        lines.push(if keep_ends { &rest[..at + length] } else { &rest[..at] });
        rest = &rest[at + length..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

pub enum Side {
    Left,
    Right,
    Both,
}

/// str.ljust, rjust and center: fills up on the side that is named.
pub fn pad(text: &str, width: i64, fill: char, side: Side) -> String {
    let missing = width.clamp(0, 1_000_000) - text.chars().count() as i64;
    if missing <= 0 {
        return text.to_string();
    }
    let left = match side {
        Side::Left => missing,
        Side::Right => 0,
        Side::Both => missing / 2 + (missing & width & 1),
    };
    let fill = |n: i64| fill.to_string().repeat(n as usize);
    fill(left) + text + &fill(missing - left)
}

/// The part of a string that [start:end] selects, and how many characters stand before it.
fn part(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(&str, i64)> {
    let length = text.chars().count() as i64;
    let place = |index: i64| if index < 0 { (index + length).max(0) } else { index };
    let (start, end) = (place(start.unwrap_or(0)), place(end.unwrap_or(length)).min(length));
    if start > end {
        return None;
    }
    let byte = |index: i64| text.char_indices().nth(index as usize).map_or(text.len(), |(at, _)| at);
    Some((&text[byte(start)..byte(end)], start))
}

fn find(text: &str, method: &'static str, args: &[Value]) -> Result<Value, Error> {
    let args = Arguments::new(method, &["sub", "start", "end"], args)?;
    let wanted = args.required("sub")?;
    let found = part(text, args.integer("start")?, args.integer("end")?).and_then(|(inside, before)| {
        let at = if method.starts_with('r') { inside.rfind(&wanted) } else { inside.find(&wanted) };
        at.map(|at| inside[..at].chars().count() as i64 + before)
    });
    match found {
        None if method.ends_with("index") => Err(invalid("substring not found")),
        found => Ok(Value::from(found.unwrap_or(-1))),
    }
}

fn starts_or_ends(text: &str, method: &'static str, args: &[Value]) -> Result<Value, Error> {
    let args = Arguments::new(method, &["prefix", "start", "end"], args)?;
    let wanted = args.get("prefix").ok_or_else(|| invalid(format!("{method}: the argument is missing")))?;
    let Some((inside, _)) = part(text, args.integer("start")?, args.integer("end")?) else {
        return Ok(Value::from(false));
    };
    let holds = |wanted: &Value| match wanted.as_str() {
        Some(wanted) if method == "startswith" => Ok(inside.starts_with(wanted)),
        Some(wanted) => Ok(inside.ends_with(wanted)),
        None => Err(invalid(format!("{method}: expected str or a tuple of str, not {}", wanted.kind()))),
    };
    if wanted.is_tuple() {
        for one in wanted.try_iter()? {
            if holds(&one)? {
                return Ok(Value::from(true));
            }
        }
        return Ok(Value::from(false));
    }
    holds(&wanted).map(Value::from)
}

fn partition(text: &str, separator: &str, from_right: bool) -> Result<Value, Error> {
    if separator.is_empty() {
        return Err(invalid("empty separator"));
    }
    let at = if from_right { text.rfind(separator) } else { text.find(separator) };
    let parts = match at {
        Some(at) => [&text[..at], separator, &text[at + separator.len()..]],
        None if from_right => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let args = Arguments::new("split", &["sep", "maxsplit"], args)?;
    let limit = args.integer("maxsplit")?.filter(|limit| *limit >= 0).map_or(usize::MAX, |limit| limit as usize);
    let separator = args.text("sep")?;
    let mut parts: Vec<&str> = Vec::new();
    let mut rest = match &separator {
        Some(_) => text,
        None => strip(text, None, !from_right, from_right),
    };
    while parts.len() < limit {
        let hit = match &separator {
            Some(separator) if separator.is_empty() => return Err(invalid("empty separator")),
            Some(separator) if from_right => rest.rfind(separator.as_str()).map(|at| (at, separator.len())),
            Some(separator) => rest.find(separator.as_str()).map(|at| (at, separator.len())),
            None if from_right => rest.char_indices().rfind(|(_, c)| is_space(*c)).map(|(at, c)| (at, c.len_utf8())),
            None => rest.char_indices().find(|(_, c)| is_space(*c)).map(|(at, c)| (at, c.len_utf8())),
        };
        let Some((at, length)) = hit else { break };
        let (part, left) =
            if from_right { (&rest[at + length..], &rest[..at]) } else { (&rest[..at], &rest[at + length..]) };
        parts.push(part);
        rest = if separator.is_some() { left } else { strip(left, None, !from_right, from_right) };
    }
    if separator.is_none() {
        rest = strip(
            rest,
            None,
            from_right && parts.is_empty(),
            !from_right && parts.is_empty() || rest.chars().all(is_space),
        );
    }
    if separator.is_some() || !rest.is_empty() {
        parts.push(rest);
    }
    if from_right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// str.title: a letter after anything that is not a letter is upper case.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

fn swap_case(text: &str) -> String {
    let swap = |c: char| -> String {
        if c.is_uppercase() {
            c.to_lowercase().collect()
        } else {
            c.to_uppercase().collect()
        }
    };
    text.chars().map(swap).collect()
}

fn fill_zeros(text: &str, width: i64) -> String {
    let (sign, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => (&text[..1], digits),
        None => ("", text),
    };
    sign.to_string() + &pad(digits, width - sign.len() as i64, '0', Side::Left)
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let one = |what: &'static str, names: &'static [&'static str]| Arguments::new(what, names, args);
    let value = match method {
        "strip" | "lstrip" | "rstrip" => {
            let chars = one("strip", &["chars"])?.text("chars")?;
            Value::from(strip(text, chars.as_deref(), method != "rstrip", method != "lstrip"))
        }
        "split" => split(text, false, args)?,
        "rsplit" => split(text, true, args)?,
        "splitlines" => {
            let keep = one("splitlines", &["keepends"])?.flag("keepends");
            split_lines(text, keep).into_iter().map(Value::from).collect()
        }
        "find" => find(text, "find", args)?,
        "rfind" => find(text, "rfind", args)?,
        "index" => find(text, "index", args)?,
        "rindex" => find(text, "rindex", args)?,
        "count" => {
            let args = one("count", &["sub", "start", "end"])?;
            let wanted = args.required("sub")?;
            let inside = part(text, args.integer("start")?, args.integer("end")?);
            Value::from(inside.map_or(0, |(inside, _)| inside.matches(wanted.as_str()).count()))
        }
        "startswith" => starts_or_ends(text, "startswith", args)?,
        "endswith" => starts_or_ends(text, "endswith", args)?,
        "partition" => partition(text, &one("partition", &["sep"])?.required("sep")?, false)?,
        "rpartition" => partition(text, &one("rpartition", &["sep"])?.required("sep")?, true)?,
        "removeprefix" => {
            let prefix = one("removeprefix", &["prefix"])?.required("prefix")?;
            Value::from(text.strip_prefix(prefix.as_str()).unwrap_or(text))
        }
        "removesuffix" => {
            let suffix = one("removesuffix", &["suffix"])?.required("suffix")?;
            Value::from(text.strip_suffix(suffix.as_str()).unwrap_or(text))
        }
        "ljust" | "rjust" | "center" => {
            let args = one("ljust", &["width", "fillchar"])?;
            let fill = args.text("fillchar")?.and_then(|fill| fill.chars().next()).unwrap_or(' ');
            let side = match method {
                "ljust" => Side::Right,
                "rjust" => Side::Left,
                _ => Side::Both,
            };
            Value::from(pad(text, args.integer("width")?.unwrap_or(0), fill, side))
        }
        "zfill" => Value::from(fill_zeros(text, one("zfill", &["width"])?.integer("width")?.unwrap_or(0))),
        "title" => Value::from(title(text)),
        "swapcase" => Value::from(swap_case(text)),
        "casefold" => Value::from(text.to_lowercase().replace('ß', "ss")),
        "isdecimal" => Value::from(!text.is_empty() && text.chars().all(|c| c.is_ascii_digit())),
        "join" => {
            let args = one("join", &["iterable"])?;
            let items = args.get("iterable").unwrap_or_default();
            let mut parts = Vec::new();
            for (index, item) in items.try_iter()?.enumerate() {
                let part = item.as_str().map(str::to_string);
                parts.push(part.ok_or_else(|| {
                    invalid(format!("sequence item {index}: expected str instance, {} found", item.kind()))
                })?);
            }
            Value::from(parts.join(text))
        }
        _ => return Ok(None),
    };
    Ok(Some(value))
}

pub fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        if let Some(result) = string_method(text, method, args)? {
            return Ok(result);
        }
    }
    match (value.kind(), method) {
        (ValueKind::Map | ValueKind::Seq, "copy") if args.is_empty() => return Ok(value.clone()),
        (ValueKind::Seq, "index") => {
            let wanted = Arguments::new("index", &["value"], args)?.get("value").unwrap_or_default();
            let at = value.try_iter()?.position(|item| item == wanted);
            return at.map(Value::from).ok_or_else(|| invalid(format!("{wanted} is not in list")));
        }
        // Templates may not change what they are given.
        (
            ValueKind::Seq | ValueKind::Iterable,
            "append" | "extend" | "insert" | "pop" | "remove" | "clear" | "sort" | "reverse",
        )
        | (ValueKind::Map, "update" | "pop" | "popitem" | "clear" | "setdefault") => {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("access to attribute {method:?} is unsafe")));
        }
        _ => {}
    }
    pycompat::unknown_method_callback(state, value, method, args)
}
