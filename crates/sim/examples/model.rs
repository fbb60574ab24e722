//! Plays seeded runs of the model: `cargo run --release -p farpipe-sim --example model -- 10000`.

#![expect(clippy::print_stdout, reason = "a program for people")]

use farpipe_sim::draw::Draw;
use farpipe_sim::model;

fn main() {
    let arg = std::env::args().nth(1).and_then(|arg| arg.parse().ok());
    let runs: u64 = arg.unwrap_or(1000);
    let begin = std::time::Instant::now();
    let (mut ops, mut disconnects, mut bytes) = (0, 0, 0);
    for seed in 0..runs {
        let outcome = model::run(&mut Draw::from_seed(seed));
        ops += outcome.ops;
        disconnects += outcome.disconnects;
        bytes += outcome.bytes;
    }
    let took = begin.elapsed().as_secs_f64();
    println!(
        "{runs} runs, {ops} operations, {disconnects} disconnects, {bytes} bytes, in {took:.1} s"
    );
}
