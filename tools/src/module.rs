//! Reading and writing wasm modules, with the file's name in every error.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use walrus::Module;

/// Reads and parses the module at `path`; also gives its size in bytes.
pub(crate) fn read(path: &Path) -> Result<(Module, usize)> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let module = Module::from_buffer(&bytes)
        .with_context(|| format!("{} is not a wasm module", path.display()))?;
    Ok((module, bytes.len()))
}

/// Writes the module to `path`, making its folder where it is missing; gives its size in bytes.
/// A file that already holds the same keeps its time, so that nothing made of it is made again.
pub(crate) fn write(module: &mut Module, path: &Path) -> Result<usize> {
    let bytes = module.emit_wasm();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(bytes.len());
    }
    fs::write(path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(bytes.len())
}
