//! Removes what the plugin does not export on purpose.
//!
//! Envoy enters the VM for each callback that it finds exported, also when the plugin then does
//! nothing. A linker cannot know which of them matter, so the list is here. The list is what is
//! *kept*: a callback that the plugin starts to use must be added, and its absence shows in the
//! first test on Envoy. A required export that a module lacks is an error: the plugin would load
//! and silently do less.

use std::path::Path;

use anyhow::{Result, bail};
use walrus::Module;

use crate::module;

/// Exports that the plugin cannot do without, each with every name it may have.
///
/// `proxy_on_done` is not among them: Envoy takes its absence for "done at once".
const REQUIRED: &[&[&str]] = &[
    &["memory"],
    &["_initialize", "_start"],
    &["proxy_on_memory_allocate", "malloc"],
    &["proxy_abi_version_0_2_1"],
    &["proxy_on_vm_start"],
    &["proxy_on_context_create"],
    &["proxy_on_configure"],
    &["proxy_on_tick"],
    &["proxy_on_http_call_response"],
    &["proxy_on_request_headers"],
    &["proxy_on_log"],
];

/// Kept where a module has them: an SDK makes and frees its contexts there.
const OPTIONAL: &[&str] = &["proxy_on_delete"];

/// Strips `input` into `output`; gives the line to print.
pub(crate) fn run(input: &Path, output: &Path, keep: &[String]) -> Result<String> {
    let (mut module, bytes_before) = module::read(input)?;
    let removed = strip(&mut module, keep)?;
    let bytes_after = module::write(&mut module, output)?;
    Ok(format!(
        "{}: {bytes_after} bytes (from {bytes_before}), {} unused exports removed",
        output.display(),
        removed.len(),
    ))
}

/// Removes every export that is not in the two lists and not in `keep`; gives the removed names.
fn strip(module: &mut Module, keep: &[String]) -> Result<Vec<String>> {
    let missing = missing(module, keep);
    if !missing.is_empty() {
        bail!("the module does not export {}", missing.join(", "));
    }
    let unused: Vec<(walrus::ExportId, String)> = module
        .exports
        .iter()
        .filter(|export| !is_kept(&export.name, keep))
        .map(|export| (export.id(), export.name.clone()))
        .collect();
    for (id, _) in &unused {
        module.exports.delete(*id);
    }
    walrus::passes::gc::run(module);
    Ok(unused.into_iter().map(|(_, name)| name).collect())
}

fn is_kept(name: &str, keep: &[String]) -> bool {
    REQUIRED.iter().any(|names| names.contains(&name))
        || OPTIONAL.contains(&name)
        || keep.iter().any(|kept| kept == name)
}

/// What must be exported and is not, each as a reader would look for it.
fn missing(module: &Module, keep: &[String]) -> Vec<String> {
    let exported = |name: &str| module.exports.iter().any(|export| export.name == name);
    let required = REQUIRED
        .iter()
        .filter(|names| !names.iter().any(|name| exported(name)))
        .map(|names| names.join(" or "));
    let asked = keep.iter().filter(|name| !exported(name)).cloned();
    required.chain(asked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exports all of `REQUIRED` (the first name of each) but `without`, and `more`.
    fn module_with(without: &str, more: &[&str]) -> Module {
        let names = REQUIRED.iter().map(|names| names[0]).chain(more.iter().copied());
        let functions: String = names
            .filter(|name| *name != "memory" && *name != without)
            .map(|name| format!("(func (export \"{name}\") (call ${name}))(func ${name})"))
            .collect();
        let text = format!("(module (memory (export \"memory\") 1) {functions})");
        Module::from_buffer(&wat::parse_str(text).unwrap()).unwrap()
    }

    fn names(module: &Module) -> Vec<&str> {
        module.exports.iter().map(|export| export.name.as_str()).collect()
    }

    #[test]
    fn only_what_is_kept_stays_exported() {
        let mut module = module_with("", &["proxy_on_done", "proxy_on_queue_ready"]);
        let removed = strip(&mut module, &[]).unwrap();
        assert_eq!(removed, ["proxy_on_done", "proxy_on_queue_ready"]);
        assert_eq!(names(&module).len(), REQUIRED.len());
        assert!(names(&module).contains(&"proxy_on_request_headers"));
    }

    #[test]
    fn what_an_sdk_needs_stays_where_it_is() {
        let mut module = module_with("", OPTIONAL);
        assert!(strip(&mut module, &[]).unwrap().is_empty());
        assert_eq!(names(&module).len(), REQUIRED.len() + OPTIONAL.len());
    }

    #[test]
    fn code_that_only_a_removed_export_reaches_goes_with_it() {
        let mut module = module_with("", &["proxy_on_done"]);
        let functions_before = module.funcs.iter().count();
        strip(&mut module, &[]).unwrap();
        assert_eq!(module.funcs.iter().count(), functions_before - 2);
    }

    #[test]
    fn a_name_given_by_hand_is_kept_too() {
        let mut module = module_with("", &["proxy_on_done"]);
        let removed = strip(&mut module, &["proxy_on_done".to_owned()]).unwrap();
        assert!(removed.is_empty());
        assert!(names(&module).contains(&"proxy_on_done"));
    }

    #[test]
    fn a_missing_callback_is_named_and_nothing_is_written() {
        let mut module = module_with("proxy_on_log", &[]);
        let error = strip(&mut module, &[]).unwrap_err().to_string();
        assert_eq!(error, "the module does not export proxy_on_log");
    }

    #[test]
    fn either_name_of_an_export_will_do_and_both_are_named_when_neither_is_there() {
        let mut other_name = module_with("proxy_on_memory_allocate", &["malloc"]);
        strip(&mut other_name, &[]).unwrap();
        let mut neither = module_with("proxy_on_memory_allocate", &[]);
        let error = strip(&mut neither, &[]).unwrap_err().to_string();
        assert_eq!(error, "the module does not export proxy_on_memory_allocate or malloc");
    }

    #[test]
    fn the_written_module_is_one_that_can_be_read_again() {
        let folder = std::env::temp_dir().join(format!("outrigger-strip-{}", std::process::id()));
        let (input, output) = (folder.join("in.wasm"), folder.join("deeper/out.wasm"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(&input, module_with("", &["proxy_on_done"]).emit_wasm()).unwrap();
        let line = run(&input, &output, &[]).unwrap();
        assert!(line.ends_with("1 unused exports removed"), "{line}");
        assert_eq!(names(&module::read(&output).unwrap().0).len(), REQUIRED.len());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
