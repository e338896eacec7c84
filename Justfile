# Needs nothing but `just`; `./justw` brings it and the compilers.

# Show the recipes
default:
    @just --list

# Build the program (development profile: dependencies optimised)
build:
    cargo build --locked

# Run vos with these arguments
[positional-arguments]
run *args:
    @cargo run --locked --quiet -- "$@"

# Start a local network of daemons and play the scenario: --nodes N, --once, --report FILE, --topology FILE, --keep DIR
[positional-arguments]
testnet *args:
    @cargo run --locked -- testnet "$@"

# Run every tier of the tests
[positional-arguments]
test *args:
    @cargo test --locked "$@"

# Lints are errors, in the program as it is shipped and in everything
lint:
    cargo clippy --locked -- -D warnings
    cargo clippy --locked --all-targets -- -D warnings

# Format the sources
fmt:
    cargo fmt

# Build the documentation of the library
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

# Run the benches (release profile: compiles the dependencies again)
[positional-arguments]
bench *args:
    @cargo bench --locked "$@"

# Everything that has to pass before a change is taken
ci:
    .ci/run

# Build for production: <target>/release/vos
release:
    cargo build --locked --release
