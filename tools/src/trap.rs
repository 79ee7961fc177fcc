//! Makes a module that dies when a request body arrives.
//!
//! What happens after a VM's death (reload, state from shared data, gauges that a dead VM never
//! counts down) can only be tested by killing one, and the plugin itself never traps. The added
//! callback is the ABI's `proxy_on_request_body(context, body_bytes, end_of_stream) -> action`.

use std::path::Path;

use anyhow::{Result, bail};
use walrus::{FunctionBuilder, Module, ValType};

use crate::module;

const CALLBACK: &str = "proxy_on_request_body";

/// Writes `input` with the trapping callback to `output`; gives the line to print.
pub(crate) fn run(input: &Path, output: &Path) -> Result<String> {
    let (mut module, _) = module::read(input)?;
    add(&mut module)?;
    let bytes = module::write(&mut module, output)?;
    Ok(format!("{}: {bytes} bytes, traps on any request body", output.display()))
}

fn add(module: &mut Module) -> Result<()> {
    if module.exports.iter().any(|export| export.name == CALLBACK) {
        bail!("the module already exports {CALLBACK}; strip it first");
    }
    let parameters = [ValType::I32; 3];
    let mut builder = FunctionBuilder::new(&mut module.types, &parameters, &[ValType::I32]);
    builder.func_body().unreachable();
    let arguments = parameters.map(|of_type| module.locals.add(of_type)).to_vec();
    let function = builder.finish(arguments, &mut module.funcs);
    module.exports.add(CALLBACK, function);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use walrus::ExportItem;

    fn parsed(text: &str) -> Module {
        Module::from_buffer(&wat::parse_str(text).unwrap()).unwrap()
    }

    #[test]
    fn the_added_callback_has_the_abis_signature_and_only_traps() {
        let mut module = parsed("(module (memory (export \"memory\") 1))");
        add(&mut module).unwrap();
        let again = Module::from_buffer(&module.emit_wasm()).unwrap();
        let export = again.exports.iter().find(|export| export.name == CALLBACK).unwrap();
        let ExportItem::Function(id) = export.item else { panic!("not a function") };
        let function = again.funcs.get(id);
        let of_type = again.types.get(function.ty());
        assert_eq!(of_type.params(), [ValType::I32; 3]);
        assert_eq!(of_type.results(), [ValType::I32]);
        let local = function.kind.unwrap_local();
        let body = local.block(local.entry_block());
        assert!(matches!(body.instrs[0].0, walrus::ir::Instr::Unreachable(_)));
    }

    #[test]
    fn a_module_that_reads_bodies_itself_is_refused() {
        let mut module = parsed(
            "(module (func (export \"proxy_on_request_body\") \
             (param i32 i32 i32) (result i32) (i32.const 0)))",
        );
        let error = add(&mut module).unwrap_err().to_string();
        assert!(error.contains("already exports proxy_on_request_body"), "{error}");
    }
}
