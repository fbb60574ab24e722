//! What is denied, tried by a process that was closed: this program, started anew. It has no harness, because
//! that runs tests in threads of their own, and one thread is what a sandbox wants.

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod tried;

fn main() {
    #[cfg(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    tried::main();
}
