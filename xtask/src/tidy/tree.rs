//! The project's text files, read once for all rules.

use std::path::Path;

use anyhow::{Context, Result};

/// Every text file of the project.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) files: Vec<File>,
}

/// One text file.
#[derive(Debug)]
pub(super) struct File {
    /// Relative to the root, with forward slashes.
    pub(super) path: String,
    pub(super) text: String,
}

impl Tree {
    /// Reads what lies under `root`. Needs no git: an unpacked source archive is checked too.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.read_dir(root, "")?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    fn read_dir(&mut self, root: &Path, relative: &str) -> Result<()> {
        let dir = root.join(relative);
        let entries = std::fs::read_dir(&dir)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| format!("cannot list {}", dir.display()))?;
        for entry in entries {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let path = format!("{relative}{name}");
            let kind = entry.file_type().context("cannot tell a file's type")?;
            if kind.is_dir() {
                let built = entry.path().join("CACHEDIR.TAG").exists() || name == "target";
                if !built && !matches!(name, ".git" | ".cache" | "corpus" | "artifacts") {
                    self.read_dir(root, &format!("{path}/"))?;
                }
            } else if kind.is_file() && name != ".git" {
                let bytes = match std::fs::read(entry.path()) {
                    Ok(bytes) => bytes,
                    // An editor's or a compiler's passing file.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
                };
                if let Ok(text) = String::from_utf8(bytes) {
                    self.files.push(File { path, text });
                }
            }
        }
        Ok(())
    }

    pub(super) fn rust(&self) -> impl Iterator<Item = &File> {
        self.with_extension(".rs")
    }

    pub(super) fn markdown(&self) -> impl Iterator<Item = &File> {
        self.with_extension(".md")
    }

    fn with_extension(&self, extension: &'static str) -> impl Iterator<Item = &File> {
        self.files
            .iter()
            .filter(move |file| file.path.ends_with(extension))
    }

    pub(super) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Whether something, file or folder, lies at `path`.
    pub(super) fn holds(&self, path: &str) -> bool {
        path.is_empty()
            || self.files.iter().any(|file| {
                file.path
                    .strip_prefix(path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
    }
}

impl File {
    /// Lines with their 1-based numbers.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(i, line)| (i + 1, line))
    }

    /// Whether the whole file is test code.
    pub(super) fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }

    /// Lines before the test module, which closes a file by house order.
    pub(super) fn product_lines(&self) -> usize {
        let end = self.text.find("\n#[cfg(test)]\nmod tests {");
        self.text[..end.unwrap_or(self.text.len())].lines().count()
    }
}
