//! Filters, tests and globals of Jinja2 that minijinja lacks or defines otherwise.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, Value};

use crate::methods::{self, split_lines};
use crate::python::{self, invalid};

/// The arguments of a call bound to names, as Python binds them.
pub struct Arguments {
    what: &'static str,
    positional: Vec<Value>,
    kwargs: Option<Kwargs>,
    names: &'static [&'static str],
}

impl Arguments {
    /// From the arguments of a method, where the last value may hold those given by name.
    pub fn new(what: &'static str, names: &'static [&'static str], args: &[Value]) -> Result<Self, Error> {
        match args.last() {
            Some(last) if last.is_kwargs() => {
                Self::bind(what, names, &args[..args.len() - 1], Some(Kwargs::try_from(last.clone())?))
            }
            _ => Self::bind(what, names, args, None),
        }
    }

    /// From the arguments of a filter.
    fn of_filter(
        what: &'static str,
        names: &'static [&'static str],
        args: &[Value],
        kwargs: Kwargs,
    ) -> Result<Self, Error> {
        Self::bind(what, names, args, Some(kwargs))
    }

    fn bind(
        what: &'static str,
        names: &'static [&'static str],
        positional: &[Value],
        kwargs: Option<Kwargs>,
    ) -> Result<Self, Error> {
        if positional.len() > names.len() {
            return Err(invalid(format!(
                "{what}: takes at most {} arguments, {} were given",
                names.len(),
                positional.len()
            )));
        }
        if let Some(kwargs) = &kwargs {
            if let Some(unknown) = kwargs.args().find(|name| !names.contains(name)) {
                return Err(invalid(format!("{what}: unknown argument {unknown:?}")));
            }
        }
        Ok(Arguments { what, positional: positional.to_vec(), kwargs, names })
    }

    /// The argument, or nothing when it was not given or is none.
    pub fn get(&self, name: &str) -> Option<Value> {
        let index = self.names.iter().position(|known| *known == name)?;
        let given = match self.positional.get(index) {
            Some(value) => Some(value.clone()),
            None => self.kwargs.as_ref().and_then(|kwargs| kwargs.get::<Option<Value>>(name).ok().flatten()),
        };
        given.filter(|value| !value.is_none() && !value.is_undefined())
    }

    pub fn text(&self, name: &str) -> Result<Option<String>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => match value.as_str() {
                Some(text) => Ok(Some(text.to_string())),
                None => Err(invalid(format!("{}: {name} must be str, not {}", self.what, value.kind()))),
            },
        }
    }

    pub fn required(&self, name: &str) -> Result<String, Error> {
        self.text(name)?.ok_or_else(|| invalid(format!("{}: {name} is missing", self.what)))
    }

    pub fn integer(&self, name: &str) -> Result<Option<i64>, Error> {
        self.get(name).map(i64::try_from).transpose()
    }

    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.is_true())
    }
}

fn soft_text(value: &Value) -> String {
    value.as_str().map_or_else(|| python::to_text(value), str::to_string)
}

fn trim(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let args = Arguments::of_filter("trim", &["chars"], &args, kwargs)?;
    Ok(methods::strip(&soft_text(value), args.text("chars")?.as_deref(), true, true).to_string())
}

fn replace(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let args = Arguments::of_filter("replace", &["old", "new", "count"], &args, kwargs)?;
    let text = soft_text(value);
    let (old, new) = (args.get("old").map_or_else(String::new, |old| soft_text(&old)), args.get("new"));
    let new = new.map_or_else(String::new, |new| soft_text(&new));
    Ok(match args.integer("count")? {
        Some(count) if count >= 0 => text.replacen(&old, &new, count as usize),
        _ => text.replace(&old, &new),
    })
}

fn indent(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let args = Arguments::of_filter("indent", &["width", "first", "blank"], &args, kwargs)?;
    let indention = match args.get("width") {
        Some(width) => match width.as_str() {
            Some(text) => text.to_string(),
            None => " ".repeat(i64::try_from(width)?.clamp(0, 10_000) as usize),
        },
        None => " ".repeat(4),
    };
    let text = soft_text(value) + "\n";
    let mut out = if args.flag("first") { indention.clone() } else { String::new() };
    for (index, line) in split_lines(&text, false).into_iter().enumerate() {
        if index > 0 {
            out.push('\n');
            if args.flag("blank") || !line.is_empty() {
                out.push_str(&indention);
            }
        }
        out.push_str(line);
    }
    Ok(out)
}

fn join(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let args = Arguments::of_filter("join", &["d", "attribute"], &args, kwargs)?;
    let between = args.get("d").map_or_else(String::new, |text| soft_text(&text));
    let attribute = args.get("attribute");
    let mut out = String::new();
    for (index, item) in value.try_iter()?.enumerate() {
        if index > 0 {
            out.push_str(&between);
        }
        match &attribute {
            Some(attribute) => {
                let mut part = item;
                for key in soft_text(attribute).split('.') {
                    part = match key.parse::<usize>() {
                        Ok(index) => part.get_item(&Value::from(index))?,
                        Err(_) => part.get_attr(key)?,
                    };
                }
                out.push_str(&soft_text(&part));
            }
            None => out.push_str(&soft_text(&item)),
        }
    }
    Ok(out)
}

fn length(value: &Value) -> Result<usize, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(0),
        kind => value.len().ok_or_else(|| invalid(format!("object of type {kind} has no len()"))),
    }
}

fn number_text(text: &str) -> String {
    text.trim().replace('_', "")
}

fn int(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let args = Arguments::of_filter("int", &["default", "base"], &args, kwargs)?;
    let otherwise = args.get("default").unwrap_or_else(|| Value::from(0));
    let base = args.integer("base")?.unwrap_or(10);
    let Some(text) = value.as_str() else {
        return Ok(match value.kind() {
            ValueKind::Bool => Value::from(i64::from(value.is_true())),
            ValueKind::Number if value.is_integer() => value.clone(),
            ValueKind::Number => {
                let number = f64::try_from(value.clone())?;
                if number.is_finite() {
                    Value::from(number.trunc() as i128)
                } else {
                    otherwise
                }
            }
            _ => otherwise,
        });
    };
    let text = number_text(text);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let prefix = match base {
        2 => "0b",
        8 => "0o",
        16 => "0x",
        _ => "",
    };
    let lower = digits.to_ascii_lowercase();
    let digits = lower.strip_prefix(prefix).unwrap_or(&lower);
    if (2..=36).contains(&base) && !digits.starts_with(['+', '-']) {
        if let Ok(number) = i128::from_str_radix(digits, base as u32) {
            return Ok(Value::from(sign * number));
        }
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(Value::from(number.trunc() as i128)),
        _ => Ok(otherwise),
    }
}

fn float(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let args = Arguments::of_filter("float", &["default"], &args, kwargs)?;
    let otherwise = args.get("default").unwrap_or_else(|| Value::from(0.0));
    Ok(match value.as_str() {
        Some(text) => number_text(text).parse::<f64>().map_or(otherwise, Value::from),
        None => f64::try_from(value.clone()).map_or(otherwise, Value::from),
    })
}

fn wordcount(value: &Value) -> usize {
    soft_text(value).split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count()
}

fn center(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let args = Arguments::of_filter("center", &["width"], &args, kwargs)?;
    Ok(methods::pad(&soft_text(value), args.integer("width")?.unwrap_or(80), ' ', methods::Side::Both))
}

/// markupsafe.escape.
fn escape(value: &Value) -> String {
    let mut out = String::new();
    for c in soft_text(value).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

/// Around what a `{% for %}` goes through (source.rs): iterating none is an error in Python.
fn checked_iterable(value: &Value) -> Result<Value, Error> {
    if is_iterable(value) {
        Ok(value.clone())
    } else {
        Err(invalid(format!("{} object is not iterable", value.kind())))
    }
}

fn cycler(items: Rest<Value>) -> Result<Value, Error> {
    minijinja_contrib::globals::cycler(items.to_vec())
}

fn is_iterable(value: &Value) -> bool {
    use ValueKind::{Iterable, Map, Seq, String, Undefined};
    matches!(value.kind(), Iterable | Map | Seq | String | Undefined)
}

pub fn add_to(environment: &mut Environment) {
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("string", |value: &Value| soft_text(value));
    environment.add_filter("pprint", |value: &Value| python::repr(value));
    environment.add_filter("trim", trim);
    environment.add_filter("replace", replace);
    environment.add_filter("indent", indent);
    environment.add_filter("join", join);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("e", escape);
    environment.add_filter("escape", escape);
    environment.add_filter(crate::source::CHECKED_ITERABLE, checked_iterable);
    environment.add_filter("wordcount", wordcount);
    environment.add_filter("center", center);
    environment.add_test("iterable", is_iterable);
    // What has a length and items; minijinja's slices of a list are iterables.
    environment.add_test("sequence", is_iterable);
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    environment.add_function("cycler", cycler);
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.remove_global("debug");
}
