//! The runtime and the monitor as a program of their own, for tests and benchmarks; the product holds both in `gantry`.

use std::path::Path;

fn main() {
    let args: Vec<_> = std::env::args_os().collect();
    let code = match args.get(1).and_then(|arg| arg.to_str()) {
        Some("monitor") => {
            agent_runtime::monitor::main(Path::new(args.get(2).map_or("".as_ref(), |arg| arg.as_os_str())))
        }
        _ => agent_runtime::cli::main(args),
    };
    std::process::exit(code);
}
