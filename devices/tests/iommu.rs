//! The IOMMU against a model of brute force, for random guests. `devices/fuzz` searches on from there.

use driver_model::iommu_model;
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_lets_through_what_is_shared_and_nothing_else(data in vec(any::<u8>(), 0..2048)) {
        iommu_model::run(&data);
    }
}

#[test]
fn the_seeds_of_the_fuzzer_hold() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/iommu");
    let seeds: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!seeds.is_empty());
    for seed in seeds {
        iommu_model::run(&std::fs::read(seed).unwrap());
    }
}
