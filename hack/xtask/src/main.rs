//! Tasks of the build that are not tests: writes the generated tables.
//! Never part of the product and never run by a build.
//! Start reading at `schema`.
mod kinds;
mod schema;

fn main() -> std::process::ExitCode {
    let task = std::env::args().nth(1);
    let result = match task.as_deref() {
        Some("schema") => schema::generate(),
        _ => {
            eprintln!("usage: cargo xtask schema    (writes controller/object/generated/)");
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
