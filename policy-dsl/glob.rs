//! Names with `*` for any characters, matched in linear time.

/// Whether `text` is one of the names that `pattern` stands for; `*` is any number of any characters, everything
/// else is itself. Linear in both lengths.
pub fn glob_matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|head| text.strip_prefix(head)) else {
        return false;
    };
    let Some(tail) = pieces.next_back() else {
        return rest.is_empty();
    };
    // Leftmost is best for every piece between two stars: it leaves most to those that follow.
    for piece in pieces {
        match rest.split_once(piece) {
            _ if piece.is_empty() => {}
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(tail)
}

/// One part of a name in a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Glob {
    /// Every name: `*`.
    Any,
    /// This name.
    Exact(Box<str>),
    /// A name with `*` in it and something beside.
    Wild(Box<str>),
}

impl Glob {
    pub(crate) fn new(text: &str) -> Glob {
        if !text.is_empty() && text.bytes().all(|byte| byte == b'*') {
            Glob::Any
        } else if text.contains('*') {
            Glob::Wild(text.into())
        } else {
            Glob::Exact(text.into())
        }
    }

    /// As it is written.
    pub(crate) fn text(&self) -> &str {
        match self {
            Glob::Any => "*",
            Glob::Exact(text) | Glob::Wild(text) => text,
        }
    }

    /// Whether every name that `name` stands for is one of these: a fact's `*` (and a name that is not known, the
    /// empty one) stands for every name, and only `*` matches it, because no pattern has a star as a letter.
    pub(crate) fn covers(&self, name: &str) -> bool {
        match self {
            Glob::Any => true,
            Glob::Exact(text) => **text == *name,
            Glob::Wild(text) => glob_matches(text, name),
        }
    }

    /// Whether some name that `name` stands for is one of these.
    pub(crate) fn touches(&self, name: &str) -> bool {
        is_every(name) || self.covers(name)
    }
}

/// Whether a fact's name stands for every name.
pub(crate) fn is_every(name: &str) -> bool {
    matches!(name, "*" | "")
}
