//! `backmesh`: see `cli` for the commands.

// Who gives out memory is for a program to say, not for a library: the tests count with another.
mod allocator;

fn main() -> std::process::ExitCode {
    backmesh::cli::main()
}
