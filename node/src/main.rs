//! `backmesh`: see `cli` for the commands.

fn main() -> std::process::ExitCode {
    backmesh::cli::main()
}
