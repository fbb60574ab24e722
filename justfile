# The commands people type. CI (.ci/run) runs the same cargo commands; `just` itself is optional.

# Lists the recipes.
default:
    @just --list --unsorted

# Every test; the last line counts them.
test:
    cargo xtask test

# Formatting, clippy, docs and the rules of the house.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --all-features -- -D warnings
    RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --all-features --no-deps --document-private-items
    cargo xtask tidy

# Puts everything into the house format.
fmt:
    cargo fmt --all

# Everything that must pass before a change lands.
ci:
    .ci/run

# Every cut and 10,000 seeds of each simulation.
sim *SEEDS:
    cargo xtask sim {{SEEDS}}

# The targets of fuzz/, each for 10 s or as said (docs/fuzzing.md).
fuzz *OPTIONS:
    cargo xtask fuzz {{OPTIONS}}

# farpipe against other pipes (docs/benchmarks.md).
bench-peers *OPTIONS:
    cargo xtask bench-peers {{OPTIONS}}

# Topics of a relay against NATS JetStream (docs/benchmarks.md).
bench-topics *OPTIONS:
    cargo xtask bench-topics {{OPTIONS}}

# WebSocket libraries against framing in place (docs/decisions/0002-websocket-framing.md).
bench-ws-libs *OPTIONS:
    cargo xtask bench-ws-libs {{OPTIONS}}
