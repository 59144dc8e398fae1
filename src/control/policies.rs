//! Policy files: found, read, compiled together.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use lockgate_lane::Identity;
use lockgate_policy_dsl::{Diagnostic, PolicySet, Program, SOURCE_BYTES_MAX, Source, compile};

/// Compiled policies and the files they were made of.
#[derive(Debug)]
pub struct Policies {
    sources: Vec<Source>,
    set: PolicySet,
    warnings: Vec<String>,
}

impl Policies {
    /// The files, as they were read.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// What the compiler found odd, rendered.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What stands between an identity and a target; `None`: it may not connect.
    pub fn program(&self, identity: &Identity, target: &str) -> Option<Program> {
        self.set.program(&identity.name, &identity.groups, target)
    }
}

/// Loads files, and the `*.policy` files of folders, and compiles them together.
///
/// # Errors
/// Every mistake in any of them, each rendered with its place.
pub fn load(paths: &[PathBuf]) -> Result<Policies, Vec<String>> {
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    let mut sources = Vec::new();
    for path in paths {
        match files(path) {
            Ok(files) if files.is_empty() => {
                warnings.push(format!("{} has no *.policy file in it", path.display()));
            }
            Ok(files) => {
                for file in files {
                    read(&file).map_or_else(|error| errors.push(error), |source| sources.push(source));
                }
            }
            Err(error) => errors.push(format!("{} cannot be read: {error}", path.display())),
        }
    }
    match compile(&sources) {
        Ok((set, found)) if errors.is_empty() => {
            warnings.extend(found.iter().map(|diagnostic| rendered(diagnostic, &sources)));
            Ok(Policies { sources, set, warnings })
        }
        Ok(_) => Err(errors),
        Err(found) => {
            errors.extend(found.iter().map(|diagnostic| rendered(diagnostic, &sources)));
            Err(errors)
        }
    }
}

/// The files that a path stands for, sorted by name.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if file.extension().is_some_and(|extension| extension == "policy") && !hidden {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<Source, String> {
    let name = path.display().to_string();
    let failed = |error: io::Error| format!("{name} cannot be read: {error}");
    let file = fs::File::open(path).map_err(failed)?;
    let most = u64::try_from(SOURCE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    // One byte more than allowed, so that the compiler sees and says that it is too long.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { name, text }),
        Err(error) => Err(format!("{name} is not UTF-8 text (byte {})", error.utf8_error().valid_up_to())),
    }
}

fn rendered(diagnostic: &Diagnostic, sources: &[Source]) -> String {
    let text = sources.iter().find(|source| source.name == diagnostic.file).map_or("", |source| &source.text);
    diagnostic.render(text).trim_end().to_owned()
}
