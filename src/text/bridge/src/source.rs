//! What is rewritten in the source of a chat template before it is compiled, where Jinja2's language says something
//! else than minijinja's: line ends, escapes in strings, `for` over none, and transformers' `{% generation %}` tag.

/// \r\n and \r are \n, as Jinja2's lexer reads them.
fn normalize_newlines(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

/// What Python's unicode_escape codec makes of the inside of a string: an escape it does not know stays as it is.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(kind) = rest.chars().next() else {
            out.push('\\');
            break;
        };
        let simple = match kind {
            '\n' => Some(""),
            '\\' => Some("\\"),
            '\'' => Some("'"),
            '"' => Some("\""),
            'a' => Some("\u{7}"),
            'b' => Some("\u{8}"),
            'f' => Some("\u{c}"),
            'n' => Some("\n"),
            'r' => Some("\r"),
            't' => Some("\t"),
            'v' => Some("\u{b}"),
            _ => None,
        };
        if let Some(simple) = simple {
            out.push_str(simple);
            rest = &rest[1..];
            continue;
        }
        let (skip, digits, radix) = match kind {
            'x' => (1, 2, 16),
            'u' => (1, 4, 16),
            'U' => (1, 8, 16),
            '0'..='7' => (0, rest.bytes().take(3).take_while(|c| (b'0'..=b'7').contains(c)).count(), 8),
            _ => (0, 0, 10),
        };
        let code = rest.get(skip..skip + digits).filter(|text| !text.is_empty());
        match code.and_then(|text| u32::from_str_radix(text, radix).ok()).and_then(char::from_u32) {
            Some(c) => {
                out.push(c);
                rest = &rest[skip + digits..];
            }
            // Also half a surrogate pair, which is not a character in Rust: it stays as it was written.
            None => out.push('\\'),
        }
    }
    out.push_str(rest);
    out
}

/// The string literal that starts with the quote at `at`: its value, quoted for minijinja, and where it ends.
fn string_literal(source: &str, at: usize) -> (String, usize) {
    let bytes = source.as_bytes();
    let quote = bytes[at];
    let mut end = at + 1;
    while end < bytes.len() && bytes[end] != quote {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    if end >= bytes.len() {
        return (source[at..].to_string(), bytes.len());
    }
    let inside = &source[at + 1..end];
    if !inside.contains('\\') {
        return (source[at..=end].to_string(), end + 1);
    }
    let quote = quote as char;
    let mut out = quote.to_string();
    for c in unescape(inside).chars() {
        if c == '\\' || c == quote {
            out.push('\\');
        }
        out.push(c);
    }
    out.push(quote);
    (out, end + 1)
}

/// The inside of a `{{` or `{%` from `at` to its end (which stays in the source), copied with its strings rewritten.
fn copy_inside(source: &str, mut at: usize, close: &str, out: &mut String) -> usize {
    let bytes = source.as_bytes();
    let mut depth = 0usize;
    while at < bytes.len() {
        if depth == 0 && source[at..].starts_with(close) {
            break;
        }
        match bytes[at] {
            b'"' | b'\'' => {
                let (literal, end) = string_literal(source, at);
                out.push_str(&literal);
                at = end;
                continue;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let length = source[at..].chars().next().map_or(1, char::len_utf8);
        out.push_str(&source[at..at + length]);
        at += length;
    }
    at
}

/// The filter that every `{% for %}` gets.
pub const CHECKED_ITERABLE: &str = "checked_iterable_";

/// Where, in the inside of a `for` tag (its strings are whole), one of the words stands outside of brackets.
fn find_word(inside: &str, from: usize, words: &[&str]) -> Option<usize> {
    let bytes = inside.as_bytes();
    let is_word = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c >= 0x80;
    let (mut at, mut depth) = (from, 0usize);
    while at < bytes.len() {
        match bytes[at] {
            b'"' | b'\'' => {
                at = string_literal(inside, at).1;
                continue;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            c if is_word(c) => {
                let end = at + bytes[at..].iter().take_while(|c| is_word(**c)).count();
                if depth == 0 && words.contains(&&inside[at..end]) {
                    return Some(at);
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// `x in xs if cond recursive` with `(xs)|checked_iterable_` for `xs`.
fn check_for(inside: &str) -> Option<String> {
    let start = find_word(inside, 0, &["in"])? + 2;
    let body = inside.trim_end_matches(['-', '+']);
    let end = find_word(body, start, &["if", "recursive"]).unwrap_or(body.len());
    Some(format!("{} ({})|{CHECKED_ITERABLE} {}", &inside[..start], &inside[start..end], &inside[end..]))
}

/// The first word of the tag whose inside starts at `at`, as a range.
fn tag_name(source: &str, at: usize) -> std::ops::Range<usize> {
    let rest = source[at..].trim_start_matches(['-', '+']).trim_start();
    let start = source.len() - rest.len();
    start..start + rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
}

/// Where the tag that closes a `{% raw %}` begins.
fn raw_end(source: &str, mut at: usize) -> usize {
    while let Some(found) = source[at..].find("{%") {
        if &source[tag_name(source, at + found + 2)] == "endraw" {
            return at + found;
        }
        at += found + 2;
    }
    source.len()
}

/// `{% generation %}` … `{% endgeneration %}` mark what the assistant wrote, for a mask that training wants; the text
/// is as without them. transformers gives the body a scope of its own, which is what `with` does.
pub fn prepare(source: &str) -> String {
    let source = normalize_newlines(source);
    let source = source.as_str();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while let Some(found) = source[at..].find('{') {
        out.push_str(&source[at..at + found]);
        at += found;
        let opener = source.get(at..at + 2).unwrap_or("{");
        if opener == "{#" {
            let end = source[at..].find("#}").map_or(source.len(), |end| at + end + 2);
            out.push_str(&source[at..end]);
            at = end;
            continue;
        }
        if opener != "{{" && opener != "{%" {
            out.push('{');
            at += 1;
            continue;
        }
        out.push_str(opener);
        at += 2;
        let is_tag = opener == "{%";
        let (mut is_raw, mut is_for) = (false, false);
        if is_tag {
            let name = tag_name(source, at);
            out.push_str(&source[at..name.start]);
            out.push_str(match &source[name.clone()] {
                "generation" => "with",
                "endgeneration" => "endwith",
                word => word,
            });
            is_raw = &source[name.clone()] == "raw";
            is_for = &source[name.clone()] == "for";
            at = name.end;
        }
        let close = if is_tag { "%}" } else { "}}" };
        let inside = out.len();
        at = copy_inside(source, at, close, &mut out);
        if let Some(checked) = is_for.then(|| check_for(&out[inside..])).flatten() {
            out.truncate(inside);
            out.push_str(&checked);
        }
        if is_raw {
            let end = raw_end(source, at);
            out.push_str(&source[at..end]);
            at = end;
        }
    }
    out.push_str(&source[at..]);
    out
}
