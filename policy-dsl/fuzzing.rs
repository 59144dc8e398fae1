//! Bodies of the fuzz targets: whatever the bytes, nothing panics and what compiles can be used.

use crate::{Effect, Facts, Object, Pair, Source};

/// Compiles any bytes, renders what is told, judges with what comes out.
pub fn compile(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let source = Source { name: String::from("fuzz.policy"), text };
    match crate::compile(std::slice::from_ref(&source)) {
        Err(diagnostics) => {
            for diagnostic in diagnostics {
                let _ = diagnostic.render(&source.text);
            }
        }
        Ok((set, warnings)) => {
            for warning in warnings {
                let _ = warning.render(&source.text);
            }
            judge(&set);
        }
    }
}

fn judge(set: &crate::PolicySet) {
    let Some(program) = set.program("user", &[String::from("group")], "target") else { return };
    for effect in Effect::ALL {
        for object in [Object::None, Object::qualified("public", "orders"), Object::word("a.b")] {
            let facts = Facts { pairs: vec![Pair::new(*effect, object)], unknown: Vec::new() };
            let _ = program.judge(&facts);
        }
    }
}
