//! An expression in CEL: compiled, and evaluated on a pod within the bounds of a request.
#![no_main]
use controller_cel::{Activation, Budget, Environment, compile};

libfuzzer_sys::fuzz_target!(|source: &str| {
    let environment = Environment::new(&["self", "oldSelf"]).with_messages();
    if let Ok(program) = compile(source, &environment) {
        let mut variables = Activation::default();
        variables.set_json("self", &fuzz::pod());
        variables.set_json("oldSelf", &serde_json::Value::Null);
        let _ = program.evaluate(&variables, &Budget::default());
    }
});
