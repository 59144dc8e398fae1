//! PostgreSQL's own raw parser over C: the one place where `unsafe` stands, so that a tree can not outlive its memory.
//!
//! The `pg_raw_parse` crate's own `parse` hides two things that are needed here: the position of a syntax error, and
//! the option to read strings as a session with `standard_conforming_strings = off` does. Some of its typed lists are
//! also typed by a guess at C comments and panic on what PostgreSQL really puts there; [`nodes()`] reads any list as
//! what it holds.

#![expect(unsafe_code, reason = "the parser is C")]

use pg_raw_parse::list::{CastNodeList, NodeList};
use pg_raw_parse::{Node, nodes, raw};
use std::ffi::{CStr, CString};
use std::fmt::Write;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// `PG_QUERY_DISABLE_STANDARD_CONFORMING_STRINGS` of `pg_query.h`: a macro, which the bindings do not carry.
const DISABLE_STANDARD_CONFORMING_STRINGS: i32 = 32;

/// Why PostgreSQL's grammar does not take a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// The server's own words.
    pub message: String,
    /// In characters from 1; 0 when the parser names no place.
    pub position: usize,
}

/// The raw statements of one string, alive as long as this is.
#[derive(Debug)]
pub struct Tree {
    context: Context,
    /// NULL for an empty string; otherwise allocated in `context`.
    list: Option<NonNull<raw::List>>,
    /// libpg_query keeps its state per thread; a tree stays where it was made.
    not_send: PhantomData<*mut ()>,
}

#[derive(Debug)]
struct Context(raw::MemoryContext);

impl Tree {
    /// Parses a string of statements as the server would with this setting.
    pub fn parse(sql: &str, standard_conforming_strings: bool) -> Result<Tree, SyntaxError> {
        let text = CString::new(sql)
            .map_err(|_| SyntaxError { message: "a zero byte in the statement".into(), position: 0 })?;
        let options = if standard_conforming_strings { 0 } else { DISABLE_STANDARD_CONFORMING_STRINGS };
        let context = Context::new();
        let parsed = context.parse(&text, options);
        if let Some(warnings) = NonNull::new(parsed.stderr_buffer) {
            // SAFETY: libpg_query hands over a buffer from malloc, once.
            unsafe { libc::free(warnings.as_ptr().cast()) };
        }
        match NonNull::new(parsed.error) {
            Some(error) => Err(take_error(error)),
            None => Ok(Tree { context, list: NonNull::new(parsed.tree), not_send: PhantomData }),
        }
    }

    /// The statements, in order; none for an empty string.
    pub fn statements(&self) -> impl Iterator<Item = Node<'_>> {
        let _ = &self.context;
        let list: Option<&NodeList> = self.list.map(|list| {
            // SAFETY: the raw parser returns a List (its layout is asserted to be NodeList's by the crate) in
            // `context`, which lives as long as `self`.
            unsafe { list.cast::<NodeList>().as_ref() }
        });
        list.into_iter().flatten().map(|node| match node {
            Node::RawStmt(statement) => statement.stmt(),
            other => other,
        })
    }
}

impl Context {
    fn new() -> Context {
        // SAFETY: idempotent for each thread, without arguments.
        unsafe { raw::pg_query_init() };
        // SAFETY: no parent, a constant name, PostgreSQL's default sizes (which it recycles).
        let context = unsafe {
            raw::AllocSetContextCreateInternal(
                std::ptr::null_mut(),
                c"lockgate".as_ptr(),
                raw::ALLOCSET_DEFAULT_MINSIZE as raw::Size,
                raw::ALLOCSET_DEFAULT_INITSIZE as raw::Size,
                raw::ALLOCSET_DEFAULT_MAXSIZE as raw::Size,
            )
        };
        Context(context)
    }

    fn parse(&self, text: &CStr, options: i32) -> raw::PgQueryInternalParsetreeAndError {
        // SAFETY: the context is alive; nothing between the two switches unwinds.
        let before = unsafe { raw::MemoryContextSwitchTo(self.0) };
        // SAFETY: a C string; errors are caught inside in C and come back in the result.
        let parsed = unsafe { raw::pg_query_raw_parse(text.as_ptr(), options) };
        // SAFETY: the context that was current before.
        unsafe { raw::MemoryContextSwitchTo(before) };
        parsed
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by `new`, deleted once, never current outside `parse`. PostgreSQL frees it block by block.
        unsafe { raw::MemoryContextDelete(self.0) };
    }
}

fn take_error(error: NonNull<raw::PgQueryError>) -> SyntaxError {
    // SAFETY: libpg_query hands over a filled error that is ours until freed below.
    let fields = unsafe { error.as_ref() };
    let message = if fields.message.is_null() {
        String::from("syntax error")
    } else {
        // SAFETY: not NULL, a C string made by strdup.
        unsafe { CStr::from_ptr(fields.message) }.to_string_lossy().into_owned()
    };
    let position = usize::try_from(fields.cursorpos).unwrap_or(0);
    // SAFETY: freed once, not used again.
    unsafe { raw::pg_query_free_error(error.as_ptr()) };
    SyntaxError { message, position }
}

/// A list that the crate typed, as what it holds: `GrantStmt.objects`, for one, is typed as relations and holds names
/// as well, on which the crate's own iterator panics.
pub fn nodes<T>(list: &CastNodeList<T>) -> &NodeList {
    let list: *const CastNodeList<T> = list;
    // SAFETY: CastNodeList<T> is `repr(transparent)` over NodeList, for every T.
    unsafe { &*list.cast::<NodeList>() }
}

/// The name of a node's C type, for reasons.
pub fn type_name(node: Node<'_>) -> String {
    let mut head = Head(String::new());
    // The writer fails behind the name, which keeps the (recursive) rest from being formatted.
    let _ = write!(head, "{node:?}");
    head.0
}

/// Takes the first word of what is written to it, then fails.
struct Head(String);

impl Write for Head {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for character in text.chars() {
            if !character.is_ascii_alphanumeric() && character != '_' {
                return Err(std::fmt::Error);
            }
            self.0.push(character);
        }
        Ok(())
    }
}

/// Strings of a list of String nodes; anything else in it is left out.
pub fn strings(list: &NodeList) -> impl Iterator<Item = &str> {
    list.iter().filter_map(|node| match node {
        Node::String(text) => text.sval(),
        _ => None,
    })
}

/// The option of this name; PostgreSQL takes the last of several.
pub fn option<'a>(options: &'a NodeList, name: &str) -> Option<&'a nodes::DefElem> {
    options.iter().rev().find_map(|node| match node {
        Node::DefElem(option) if option.defname() == Some(name) => Some(option),
        _ => None,
    })
}
