//! Some seeds, as a taste of `make sim`, and the wrong plans that it must notice.

mod runtime;

use coracle_test_sim::{Options, mutants};

/// As many, and a wrong plan must be noticed in them.
const SEEDS: u64 = 100;
/// Seeds of `make sim SEEDS=10000` that found something: a Node that is deleted before it has its network.
const FOUND: [u64; 1] = [650];

#[test]
fn a_cluster_comes_to_rest_whatever_happens_to_it() {
    for seed in (1..=SEEDS).chain(FOUND) {
        let outcome = runtime::run(Options::new(seed));
        let tail = outcome.trace.join("\n");
        assert_eq!(outcome.violation, None, "{tail}\nagain, with the whole trace: make sim SEED={seed}");
    }
}

#[cfg(tokio_unstable)]
#[test]
fn a_seed_can_be_had_again() {
    for seed in 1..=20 {
        let [first, second] = [(); 2].map(|()| runtime::run(Options::new(seed)));
        assert_eq!((first.hash, first.lines), (second.hash, second.lines), "seed {seed}");
    }
}

#[test]
fn every_wrong_plan_is_noticed() {
    for mutant in mutants::ALL {
        let noticed = (1..=SEEDS).find_map(|seed| {
            let mut options = Options::new(seed);
            (mutant.plant)(&mut options);
            Some((seed, runtime::run(options).violation?))
        });
        let (seed, violation) = noticed.unwrap_or_else(|| panic!("{SEEDS} seeds did not notice that {}", mutant.name));
        println!("seed {seed} notices that {}: {violation}", mutant.name);
    }
}
