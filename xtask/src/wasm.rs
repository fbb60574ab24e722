//! `cargo xtask wasm`: farpipe-proto as a WebAssembly module that imports nothing.
//!
//! A module without imports can call no clock, socket, file or random source: the strongest proof
//! that the rules do no I/O. Every function is generated (`link-dead-code`) and kept
//! (`--no-gc-sections`): otherwise the linker drops what no one calls, which is everything, and an
//! empty module proves nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::tools;

const TARGET: &str = "wasm32-unknown-unknown";

/// Section ids of the core specification, "Binary Format: Modules".
const SECTION_IMPORT: u8 = 2;
const SECTION_FUNCTION: u8 = 3;

pub fn run() -> Result<()> {
    ensure_target()?;
    let module = build()?;
    let bytes =
        std::fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
    let summary = inspect(&bytes).context("the built module is malformed")?;
    ensure!(
        summary.imports.is_empty(),
        "farpipe-proto reaches outside itself: its wasm module imports {}\n\
         hint: take time, randomness and I/O as arguments",
        summary.imports.join(", ")
    );
    ensure!(
        summary.functions > 0,
        "the module holds no function, so it proves nothing"
    );
    println!("wasm: {} functions, no imports", summary.functions);
    Ok(())
}

/// Installs the target where it is missing and rustup is at hand.
fn ensure_target() -> Result<()> {
    let sysroot = tools::output("rustc", &["--print", "sysroot"])?;
    if Path::new(&sysroot)
        .join("lib/rustlib")
        .join(TARGET)
        .is_dir()
    {
        return Ok(());
    }
    tools::check(&mut tools::command("rustup", &["target", "add", TARGET])).with_context(|| {
        format!("the standard library for {TARGET} is not installed and could not be fetched")
    })
}

fn build() -> Result<PathBuf> {
    // A directory of its own: other flags would rebuild the dependencies of the usual builds.
    let target_dir = tools::target_dir()?.join("wasm-check");
    let mut command = tools::cargo(&[
        "rustc",
        "--package=farpipe-proto",
        "--lib",
        // An rlib beside it makes the compiler generate every public function.
        "--crate-type=cdylib,rlib",
        "--release",
        "--target",
        TARGET,
        "--",
        "-Clink-dead-code=yes",
        "-Clink-arg=--no-gc-sections",
    ]);
    command
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env_remove("RUSTFLAGS");
    tools::check(&mut command)?;
    Ok(target_dir.join(TARGET).join("release/farpipe_proto.wasm"))
}

/// What a module says about itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    /// `module.name` of each import.
    imports: Vec<String>,
    /// Functions defined in the module.
    functions: u32,
}

fn inspect(bytes: &[u8]) -> Result<Summary> {
    let mut module = Reader(bytes);
    ensure!(
        module.take(8)? == b"\0asm\x01\0\0\0",
        "not a wasm module of version 1"
    );
    let mut summary = Summary::default();
    while !module.0.is_empty() {
        let id = module.byte()?;
        let size = module.number()?;
        let mut section = Reader(module.take(size as usize)?);
        match id {
            SECTION_IMPORT => {
                for _ in 0..section.number()? {
                    summary.imports.push(section.import()?);
                }
            }
            SECTION_FUNCTION => summary.functions = section.number()?,
            _ => {}
        }
    }
    Ok(summary)
}

/// Reads the front of what is left.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(n).context("cut short")?;
        self.0 = rest;
        Ok(front)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// An unsigned LEB128 number of at most 32 bits.
    fn number(&mut self) -> Result<u32> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).context("a number of more than 32 bits");
            }
        }
        bail!("a number of more than five bytes")
    }

    fn name(&mut self) -> Result<String> {
        let len = self.number()?;
        Ok(String::from_utf8_lossy(self.take(len as usize)?).into_owned())
    }

    fn import(&mut self) -> Result<String> {
        let name = format!("{}.{}", self.name()?, self.name()?);
        match self.byte()? {
            // A function: the index of its type.
            0 => drop(self.number()?),
            // A table: the type of its elements, then its limits.
            1 => {
                self.byte()?;
                self.limits()?;
            }
            2 => self.limits()?,
            // A global: its type and whether it can change.
            3 => drop(self.take(2)?),
            kind => bail!("an import of unknown kind {kind}"),
        }
        Ok(name)
    }

    fn limits(&mut self) -> Result<()> {
        let has_max = self.byte()? & 1 == 1;
        self.number()?;
        if has_max {
            self.number()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(sections: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = b"\0asm\x01\0\0\0".to_vec();
        for (id, body) in sections {
            bytes.extend([*id, body.len() as u8]);
            bytes.extend_from_slice(body);
        }
        bytes
    }

    #[test]
    fn imports_of_every_kind_are_named() {
        let imports = [
            &[4][..],
            b"\x03env\x03now\x00\x81\x01",
            b"\x01a\x01t\x01\x70\x01\x00\x7f",
            b"\x01a\x01m\x02\x00\x01",
            b"\x01a\x01g\x03\x7f\x00",
        ]
        .concat();
        let bytes = module(&[
            (1, b"\x00"),
            (SECTION_IMPORT, &imports),
            (SECTION_FUNCTION, b"\x02\x00\x00"),
        ]);
        let summary = inspect(&bytes).unwrap();
        assert_eq!(summary.imports, ["env.now", "a.t", "a.m", "a.g"]);
        assert_eq!(summary.functions, 2);
    }

    #[test]
    fn a_module_without_imports_is_recognised() {
        let bytes = module(&[(SECTION_FUNCTION, b"\x01\x00"), (0, b"\x04name")]);
        assert_eq!(
            inspect(&bytes).unwrap(),
            Summary {
                imports: vec![],
                functions: 1
            }
        );
    }

    #[test]
    fn malformed_modules_are_errors() {
        assert!(inspect(b"\x7fELF").is_err());
        assert!(inspect(&module(&[(SECTION_IMPORT, b"\x01\x03en")])).is_err());
        assert!(inspect(b"\0asm\x01\0\0\0\x02\xff\xff\xff\xff\xff\xff").is_err());
    }
}
