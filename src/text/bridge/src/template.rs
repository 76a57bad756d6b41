//! Chat templates, rendered as transformers' apply_chat_template renders them: Jinja with trim_blocks and lstrip_blocks,
//! loop controls, Python's methods, raise_exception, strftime_now, a `tojson` that is json.dumps, and the
//! `{% generation %}` tag, which only marks text.

use std::error::Error as _;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};

use serde_json::Value as Json;

use crate::ffi::{guard, Bytes, Slice};
use crate::{filters, methods, python, source};

const NAME: &str = "chat_template";

// Instructions of the template engine. The longest real conversations take some ten thousand; a template that needs
// more than this loops for ever.
const FUEL: u64 = 20_000_000;

pub struct ChatTemplate {
    environment: Environment<'static>,
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// datetime.now().strftime(format), in local time.
fn strftime_now(format: String) -> Result<String, Error> {
    let bad = |text: &str| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {text}"));
    if format.is_empty() {
        return Ok(format);
    }
    let c_format = std::ffi::CString::new(format).map_err(|_| bad("the format has a NUL"))?;
    let mut text = vec![0u8; 64 * (c_format.as_bytes().len() + 16)];
    // SAFETY: localtime_r and strftime write into the two locals, the latter at most text.len() bytes.
    let size = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut parts: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&now, &mut parts).is_null() {
            return Err(bad("no local time"));
        }
        libc::strftime(text.as_mut_ptr().cast(), text.len(), c_format.as_ptr(), &parts)
    };
    text.truncate(size);
    String::from_utf8(text).map_err(|_| bad("the locale's text is not UTF-8"))
}

fn describe(error: &Error) -> String {
    let mut text = match (error.kind(), error.detail()) {
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_string(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    if let Some(line) = error.line() {
        text += &format!(" (line {line} of the template)");
    }
    let mut source = error.source();
    while let Some(inner) = source {
        text += &format!("; {inner}");
        source = inner.source();
    }
    text
}

impl ChatTemplate {
    fn new(source: &str) -> Result<Self, String> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| describe(&error))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(methods::call);
        environment.set_formatter(|out, _, value| match value.as_str() {
            Some(text) => out.write_str(text).map_err(Error::from),
            None => out.write_str(&python::to_text(value)).map_err(Error::from),
        });
        filters::add_to(&mut environment);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_template_owned(NAME, source::prepare(source)).map_err(|error| describe(&error))?;
        Ok(ChatTemplate { environment })
    }

    fn render(
        &self,
        messages: Json,
        special: Json,
        extra: Json,
        add_generation_prompt: bool,
    ) -> Result<String, String> {
        let Json::Array(messages) = messages else {
            return Err("the messages are not a list".to_string());
        };
        let messages = messages.into_iter().map(plain_message).collect::<Result<Vec<_>, _>>()?;
        let mut context = serde_json::Map::new();
        context.insert("messages".to_string(), Json::Array(messages));
        context.insert("tools".to_string(), Json::Null);
        context.insert("documents".to_string(), Json::Null);
        context.insert("add_generation_prompt".to_string(), Json::Bool(add_generation_prompt));
        for variables in [special, extra] {
            let Json::Object(variables) = variables else {
                return Err("the template's variables are not a JSON object".to_string());
            };
            context.extend(variables);
        }
        let template = self.environment.get_template(NAME).map_err(|error| describe(&error))?;
        template.render(python::value_of(&Json::Object(context))).map_err(|error| describe(&error))
    }
}

const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// What transformers does to a message before a template sees it: keys that are null are dropped, and reasoning, which
/// has three names, is given under the two that templates read.
fn plain_message(message: Json) -> Result<Json, String> {
    let Json::Object(message) = message else {
        return Err("a message is not a JSON object".to_string());
    };
    let mut message: serde_json::Map<_, _> = message.into_iter().filter(|(_, value)| !value.is_null()).collect();
    if let Some(reasoning) = REASONING.iter().find_map(|key| message.get(*key)).cloned() {
        if !message.contains_key("thinking") {
            message.shift_insert(0, "thinking".to_string(), reasoning.clone());
        }
        message.insert("reasoning_content".to_string(), reasoning);
    }
    Ok(Json::Object(message))
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_template_new(source: Slice, out: *mut *mut ChatTemplate, error: *mut Bytes) -> i32 {
    guard(error, || {
        let template = ChatTemplate::new(source.text("the chat template")?)?;
        out.write(Box::into_raw(Box::new(template)));
        Ok(())
    })
}

/// # Safety
/// `template` came from this library and is not used again.
#[no_mangle]
pub unsafe extern "C" fn coterie_template_free(template: *mut ChatTemplate) {
    if !template.is_null() {
        drop(Box::from_raw(template));
    }
}

/// # Safety
/// See bridge.h.
#[no_mangle]
pub unsafe extern "C" fn coterie_template_render(
    template: &ChatTemplate,
    messages: Slice,
    special: Slice,
    extra: Slice,
    add_generation_prompt: i32,
    text: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let parse = |json: Slice, what: &str| -> Result<Json, String> {
            serde_json::from_slice(json.bytes()).map_err(|error| format!("{what}: {error}"))
        };
        let messages = parse(messages, "the messages")?;
        let rendered = template.render(
            messages,
            parse(special, "the special tokens")?,
            parse(extra, "the template's variables")?,
            add_generation_prompt != 0,
        )?;
        Bytes::give(text, rendered.into_bytes());
        Ok(())
    })
}
