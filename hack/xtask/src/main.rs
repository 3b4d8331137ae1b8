//! Tasks of the build that are not tests: writes the generated tables, checks the house rules.
//! Never part of the product and never run by a build.
//! Start reading at `schema`.
mod kinds;
mod schema;
mod tidy;

fn main() -> std::process::ExitCode {
    let task = std::env::args().nth(1);
    let result = match task.as_deref() {
        Some("schema") => schema::generate(),
        Some("tidy") => {
            let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
            let breaches = tidy::breaches(&root);
            for breach in &breaches {
                eprintln!("{breach}");
            }
            return match breaches.is_empty() {
                true => std::process::ExitCode::SUCCESS,
                false => std::process::ExitCode::FAILURE,
            };
        }
        _ => {
            eprintln!(
                "usage: cargo xtask schema    (writes controller/object/generated/)\n       cargo xtask tidy      (checks layers, file sizes, names)"
            );
            return std::process::ExitCode::from(2);
        }
    };
    match result {
        Ok(report) => {
            println!("{report}");
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
