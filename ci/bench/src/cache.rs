//! What modelling a cache costs: one boot with no cache, with a cache that sees the pages devices reach, and with one that sees every
//! access, in turn, beside QEMU's translator and its cache plugin.

use crate::guest::Guest;
use crate::peer::{self, Peer};
use crate::table::Figure;
use anyhow::Result;
use std::path::Path;

/// The modelled cache, that of the plugin ([`Peer::QemuCache`]), and what a boot with it may take, times one without.
const SCOPES: [(&str, &str, f64); 2] = [
    ("scope=dma", "size=32K,ways=8,line=64,policy=lru,scope=dma", 1.1),
    ("scope=all", "size=32K,ways=8,line=64,policy=lru,scope=all", 1.4),
];
/// The scope that is compared with the peers, which see every access, and what it may take, times QEMU's translator alone.
const EXACT: &str = "scope=all";
const TIMES_QEMU: f64 = 12.0;

/// Measures boots of `guest` to power-off.
pub(crate) fn run(staleline: &Path, guest: &Guest, peers: &[Peer], rounds: u32) -> Result<Vec<Figure>> {
    let seconds = |what: &str| Figure::new(format!("boot, {what}"), "s");
    let ratio = |what: String, target| {
        let mut figure = Figure::new(what, "");
        figure.target = target;
        figure
    };
    // Bochs models no cache.
    let peers: Vec<Peer> = peers.iter().copied().filter(|peer| *peer != Peer::Bochs).collect();
    let mut off = seconds("--cache off");
    let mut scopes: Vec<(Figure, Figure)> = SCOPES
        .iter()
        .map(|(name, _, target)| {
            (seconds(&format!("--cache {name}")), ratio(format!("{name}: times off"), Some(*target)))
        })
        .collect();
    let mut beside: Vec<(Figure, Figure)> = peers
        .iter()
        .map(|peer| {
            let target = (*peer == Peer::Qemu).then_some(TIMES_QEMU);
            (seconds(peer.title()), ratio(format!("{EXACT}: times {}", peer.title()), target))
        })
        .collect();
    for round in 1..=rounds {
        let boot = |name: &str, arguments: &[&str]| -> Result<f64> {
            eprintln!("cache: round {round} of {rounds}: {name}");
            Ok(peer::staleline(staleline, guest, arguments)?.time(true)?.seconds())
        };
        let without = boot("off", &[])?;
        off.values.push(without);
        let mut exact = f64::NAN;
        for ((name, spec, _), (figure, ratio)) in SCOPES.iter().zip(&mut scopes) {
            let with = boot(name, &["--cache", spec])?;
            figure.values.push(with);
            ratio.values.push(with / without);
            if *name == EXACT {
                exact = with;
            }
        }
        for (peer, (figure, ratio)) in peers.iter().zip(&mut beside) {
            eprintln!("cache: round {round} of {rounds}: {}", peer.title());
            let theirs = peer.run(guest)?.time(true)?.seconds();
            figure.values.push(theirs);
            ratio.values.push(exact / theirs);
        }
    }
    let pairs = scopes.into_iter().chain(beside).flat_map(|(figure, ratio)| [figure, ratio]);
    Ok(std::iter::once(off).chain(pairs).collect())
}
